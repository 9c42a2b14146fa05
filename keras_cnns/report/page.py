"""Self-contained HTML pages: they contain no scripts and no fonts, and load nothing.

A page is a list of sections, which consist of the blocks defined here. The template
`templates/page.html` has a macro for each class of blocks. It renders the page with the styles of
`templates/page.css`, and escapes every text. No other file of this package contains HTML.
"""

import base64
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image

# Pixels. An image whose longer side is at most this is enlarged, so that its pixels are visible.
_SMALL = 64
_LARGEST = 176  # pixels; the longer side of a larger image is scaled down to this length

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("keras_cnns.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences, which is numbered if it has a title, and otherwise has bullets."""

    texts: Sequence[str]
    title: str = ""

    def __bool__(self) -> bool:
        return bool(self.texts)


@dataclass(frozen=True)
class Link:
    """A table cell with a link to a section of the page."""

    text: str
    anchor: str  # the section's anchor


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    text: str
    title: str = ""
    summary: str = ""  # if not empty, the text is folded under this line


@dataclass(frozen=True)
class Terms:
    """Pairs of (term, description in whole sentences)."""

    values: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Cards:
    """Key metrics in boxes: pairs of (name, value)."""

    values: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table; its last `numbers` columns are right-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    numbers: int = 0
    title: str = ""
    summary: str = ""  # if not empty, the table is folded under this line


@dataclass(frozen=True)
class Chart:
    """A chart, and a sentence that describes it for readers who cannot see it."""

    title: str
    description: str
    svg: str
    draw_png: Callable[[], bytes] | None = field(default=None, compare=False, repr=False)

    @property
    def uri(self) -> str:
        """Return the chart as a data URI."""
        return _data_uri("svg+xml", self.svg.encode())

    @property
    def png_uri(self) -> str:
        """Return a data URI of the chart as a PNG for slides; "" if the chart has no PNG."""
        return _data_uri("png", self.draw_png()) if self.draw_png else ""

    @property
    def file_name(self) -> str:
        """Return a name for a file of the chart, without the suffix."""
        return _file_name(self.title)


@dataclass(frozen=True)
class Charts:
    """Charts in a grid; a chart without anything to draw is None and is left out."""

    charts: Sequence[Chart | None]
    downloads: bool = False  # whether each chart has a link to a PNG
    wide: bool = False  # whether each chart is as wide as the page

    def __bool__(self) -> bool:
        return any(self.charts)


@dataclass(frozen=True)
class Animation:
    """A moving chart, a GIF. It is folded: readers open it to start it, and close it to stop it."""

    title: str
    description: str  # for readers who cannot see it
    gif: bytes = field(repr=False)

    @property
    def uri(self) -> str:
        """Return the animation as a data URI."""
        return _data_uri("gif", self.gif)

    @property
    def file_name(self) -> str:
        """Return a name for a file of the animation, without the suffix."""
        return _file_name(self.title)


@dataclass(frozen=True)
class Picture:
    """An image uint8 [H, W, C], and the lines of its caption; the first line is also its alt text.

    If `link` is not empty, it is the address of the image's file.
    """

    image: np.ndarray
    caption: Sequence[str]
    link: str = ""

    @property
    def is_small(self) -> bool:
        """Return whether the image is so small that the page enlarges it, with visible pixels."""
        return bool(max(self.image.shape[:2]) <= _SMALL)

    @property
    def uri(self) -> str:
        """Return the image as a data URI: a PNG if it is small, otherwise a scaled JPEG."""
        image = Image.fromarray(self.image[..., 0] if self.image.shape[-1] == 1 else self.image)
        file = io.BytesIO()
        if self.is_small:
            image.save(file, "png", optimize=True)
            return _data_uri("png", file.getvalue())
        image.thumbnail((_LARGEST, _LARGEST))
        image.save(file, "jpeg", quality=85)
        return _data_uri("jpeg", file.getvalue())


@dataclass(frozen=True)
class Pictures:
    """Images in a grid; if `shown` is not 0, the images after the first `shown` are folded."""

    pictures: Sequence[Picture]
    shown: int = 0

    def __bool__(self) -> bool:
        return bool(self.pictures)


Block = Text | Code | Terms | Items | Cards | Table | Charts | Animation | Pictures


@dataclass(frozen=True)
class Section:
    """A part of a page, which is left out if none of its blocks has content."""

    title: str
    intro: str  # one or two sentences for the reader; may be empty
    blocks: Sequence[Block]
    side_by_side: bool = False  # whether the blocks are side by side if the window is wide enough
    anchor: str = ""  # the target of links to the section


def render(
    title: str,
    subtitle: str,
    sections: Iterable[Section],
    key_metrics: Cards | None = None,
    *,
    contents: bool = False,
) -> str:
    """Return a page as HTML; the `key_metrics` precede its sections.

    If `contents` is true, a list of links to the sections follows the key metrics.
    """
    shown = [section for section in sections if any(section.blocks)]
    return _ENVIRONMENT.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        key_metrics=key_metrics,
        sections=shown,
        contents=contents,
    )


def file_address(path: Path, folder: Path) -> str:
    """Return the address of a file relative to the folder of the page."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(path, folder.resolve())).as_posix()))
    except ValueError:  # on Windows, the file may be on another drive
        return path.absolute().as_uri()


def _file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
