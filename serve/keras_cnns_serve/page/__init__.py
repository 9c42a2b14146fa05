"""The page for trying a model: plain HTML, CSS and JavaScript files in this folder."""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

DOCUMENT = "index.html"
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str  # a strong validator: a digest of the content, in quotation marks


def page_files() -> dict[str, PageFile]:
    """Return the files of the page by their names."""
    found = {}
    for path in files(__name__).iterdir():
        kind = path.name.rpartition(".")[2]
        if kind in _MEDIA_TYPES:
            content = path.read_bytes()
            etag = f'"{sha256(content).hexdigest()[:32]}"'
            found[path.name] = PageFile(content, _MEDIA_TYPES[kind], etag)
    return found
