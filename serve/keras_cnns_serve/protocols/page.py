"""The page for trying a model, at `/` for browsers, with its files under `/page/`."""

import re
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from keras_cnns_serve.page import DOCUMENT, PageFile, page_files

_FOLDER = "/page/"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Scripts cannot turn text, such as the name of a label or a file, into markup.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "cache-control": "no-cache",  # browsers may store it, but must validate it before each use
    "content-security-policy": _POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class Page:
    """The page for trying a model.

    Its files contain no secrets and need no token. The requests that its script sends are
    authorized like those of any client.
    """

    def __init__(self) -> None:
        self._files = page_files()

    def routes(self) -> list[Route]:
        """Return the routes of the page's files; `Home` answers `/`."""
        return [
            Route(_FOLDER + name, self._answer, methods=["GET"], name=name) for name in self._files
        ]

    def is_for(self, scope: Scope) -> bool:
        """Return whether a request is for a file of the page, or for `/` as HTML."""
        if scope["method"] not in ("GET", "HEAD"):
            return False
        path: str = scope["path"]
        if path == "/":
            accept = (value for name, value in scope["headers"] if name == b"accept")
            return prefers_html(b",".join(accept).decode("latin-1"))
        return path.startswith(_FOLDER) and path.removeprefix(_FOLDER) in self._files

    def document(self, request: Request) -> Response:
        """Return the HTML, or 304 if the browser has the current HTML."""
        return _response(self._files[DOCUMENT], request)

    async def _answer(self, request: Request) -> Response:
        return _response(self._files[request.scope["path"].removeprefix(_FOLDER)], request)


def _response(file: PageFile, request: Request) -> Response:
    headers = _HEADERS | {"etag": file.etag}
    if request.scope["path"] == "/":
        headers["vary"] = "accept"
    known = re.findall(r'"[^"]*"', request.headers.get("if-none-match", ""))
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


def prefers_html(accept: str) -> bool:
    """Return whether the value of a header Accept prefers text/html to application/json.

    Browsers prefer HTML. Clients that accept any type, such as curl, do not.
    """
    ranges = dict(map(_media_range, accept.lower().split(",")))
    html, json = (
        _quality(ranges, (kind, f"{kind.partition('/')[0]}/*", "*/*"))
        for kind in ("text/html", "application/json")
    )
    return html > json


def _quality(ranges: dict[str, float], names: Iterable[str]) -> float:
    """Return the quality of the first name that is in the header's ranges, or 0 if none is."""
    return next((ranges[name] for name in names if name in ranges), 0.0)


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        if match := re.fullmatch(r"q\s*=\s*([01](?:\.\d{0,3})?)", parameter):
            return name, float(match[1])
    return name, 1.0
