"""The page in Debian's chromium: on a phone, in the dark, without a mouse, and printed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from keras_cnns.lab.report import PAGE


@pytest.fixture
def url(saddle_folder: Path) -> str:
    return (saddle_folder / PAGE).as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("these tests need Debian's chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_everyone_can_read_the_page(chromium: Browser, url: str, width: int, scheme: str) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(url)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    page.close()


def test_a_figure_is_downloaded_by_keyboard(chromium: Browser, url: str, tmp_path: Path) -> None:
    page = chromium.new_page()
    page.goto(url)
    page.locator("a[download]").first.focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    download.value.save_as(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    page.locator('a[href="#saddle"]').focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#saddle")
    page.close()
