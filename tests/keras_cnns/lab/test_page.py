"""The page in Debian's chromium: on a phone, in the dark, without a mouse, and printed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from keras_cnns.lab.experiment import Settings
from keras_cnns.lab.experiments import find_experiment
from keras_cnns.lab.report import write_report
from keras_cnns.lab.running import Size, run_experiments


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lab")
    size = Size(5, Settings())
    run_experiments([find_experiment("saddle")], size, folder, log=lambda line: None)
    return write_report(folder).as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "install Debian's chromium"
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
