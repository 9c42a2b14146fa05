"""The page in Debian's chromium: on a phone, in the dark, without a mouse, and printed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from keras_cnns.lab.report import PAGE
from tests.browser import check_that_everyone_can_read, chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_everyone_can_read_the_page(
    browser: Browser, saddle_folder: Path, width: int, scheme: str
) -> None:
    check_that_everyone_can_read(browser, saddle_folder / PAGE, width, scheme)


def test_a_figure_is_downloaded_by_keyboard(
    browser: Browser, saddle_folder: Path, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.goto((saddle_folder / PAGE).as_uri())
    page.locator("a[download]").first.focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    download.value.save_as(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    page.locator('a[href="#saddle"]').focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#saddle")
    page.close()
