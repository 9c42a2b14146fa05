"""The page's files, and who gets the page at `/`; test_browser.py uses it in a browser."""

import re
from pathlib import Path

import pytest

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.access import Access
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.options import parse
from keras_cnns_serve.page import page_files
from keras_cnns_serve.protocols.admission import Admission
from keras_cnns_serve.protocols.page import Page, prefers_html
from tests.serve.conftest import Client

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
MAX_BYTES = 60_000


@pytest.fixture(scope="module")
def with_page(dataplane: Dataplane) -> Client:
    return Client(create_app(dataplane, page=Page()))


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (CHROMIUM, True),
        (FIREFOX, True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("text/*", True),
        ("text/html, application/json;q=0.9", True),
        ("", False),
        ("*/*", False),  # curl, and Python's and Go's clients
        ("application/json, text/plain, */*", False),  # axios
        ("application/json", False),
        ("text/html, application/json", False),
        ("text/html;q=0.2, */*", False),
        ("text/html;q=0, */*;q=0", False),
        ("image/*", False),
        (";;q=,,/;q=2", False),
    ],
)
def test_a_client_that_prefers_html_is_a_browser(accept: str, html: bool) -> None:
    assert prefers_html(accept) == html


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_programs_get_the_same_json_as_without_the_page(
    client: Client, with_page: Client, accept: str
) -> None:
    response = with_page.request("GET", "/", headers={"accept": accept})
    without = client.get("/")
    assert response.content == without.content
    assert response.headers["content-type"] == without.headers["content-type"]
    assert response.headers["vary"] == "accept"


def test_browsers_get_the_page_with_a_strict_policy(with_page: Client) -> None:
    response = with_page.request("GET", "/", headers={"accept": CHROMIUM})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["vary"] == "accept"
    policy = response.headers["content-security-policy"].split("; ")
    assert policy[:5] == [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
    ]
    assert "unsafe" not in str(policy)


def test_files_are_validated_before_they_are_used_again(with_page: Client) -> None:
    for path in ("/", *(f"/page/{name}" for name in page_files())):
        accept = {"accept": CHROMIUM}
        first = with_page.request("GET", path, headers=accept)
        assert first.status_code == 200, path
        assert "content-security-policy" in first.headers
        for known in (first.headers["etag"], f'W/"x", {first.headers["etag"]}'):
            again = with_page.request("GET", path, headers=accept | {"if-none-match": known})
            assert (again.status_code, again.content) == (304, b"")
        other = with_page.request("GET", path, headers=accept | {"if-none-match": '"other"'})
        assert other.content == first.content
    for path in ("/page/", "/page/none.js", "/page/__init__.py", "/page/..%2fcli.py"):
        assert with_page.get(path).status_code == 404, path


def test_the_page_is_small_and_refers_to_nothing_elsewhere() -> None:
    files = page_files()
    assert sum(len(file.content) for file in files.values()) <= MAX_BYTES
    for name, file in files.items():
        text = file.content.decode()
        assert not re.search(r"(src|href|url|import|from)\s*[=(]?\s*[\"']?(https?:)?//", text), name
    html = files["index.html"].content.decode()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)", html)
    scripts = b"".join(file.content for name, file in files.items() if name.endswith(".js"))
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)
    assert not re.search(rb"localStorage|sessionStorage|indexedDB|cookie", scripts)


def test_the_page_needs_no_token_and_all_else_does(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("t" * 32)

    def admits(page: Page | None, path: str, accept: str = CHROMIUM, method: str = "GET") -> bool:
        headers = [(b"accept", accept.encode())]
        scope = {"path": path, "method": method, "headers": headers}
        return Admission(Access(tokens), page=page).authorize_http(scope) is None

    page = Page()
    for path in ("/", "/page/page.js", "/page/page.css"):
        assert admits(page, path)
        assert admits(page, path, method="HEAD")
        assert not admits(page, path, method="POST")
        assert not admits(None, path)
    assert not admits(page, "/", "*/*")
    for path in ("//", "/page/", "/page/x", "/page/../v1/models", "/v1/models", "/openapi.json"):
        assert not admits(page, path)


def test_the_page_can_be_disabled(client: Client) -> None:
    assert parse("x", "", ["models"]).page
    assert not parse("x", "", ["models", "--no-page"]).page
    response = client.request("GET", "/", headers={"accept": CHROMIUM})
    assert response.headers["content-type"] == "application/json"
    assert "vary" not in response.headers
    assert client.get("/page/page.js").status_code == 404
