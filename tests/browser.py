"""Debian's chromium, which opens the pages that users see."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser without a window, started with these arguments."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("these tests need Debian's chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", *arguments]
        )
        yield browser
        browser.close()


def check_that_everyone_can_read(browser: Browser, path: Path, width: int, scheme: str) -> str:
    """Check that a page fits the width and that axe finds nothing; return its visible text."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    text = page.inner_text("main")
    page.close()
    return text
