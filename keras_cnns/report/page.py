"""One HTML file that needs nothing else: no script, no font, no request."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

SMALL = 64  # pixels; up to this side a picture is shown pixel by pixel
LARGEST = 176  # pixels; what is larger is shown smaller

STYLE = """
:root{color-scheme:light;--ink:#1b1f24;--soft:#5b6570;--line:#e3e6ea;--blue:#1f5fd0}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:28px 24px 64px;color:var(--ink);background:#fff;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:26px;line-height:1.25;margin:0 0 4px}
h2{font-size:19px;margin:44px 0 4px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:20px 0 6px}
p{margin:4px 0 12px;color:var(--soft);max-width:78ch}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:12px;margin:20px 0}
.card{border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.card b{display:block;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(440px,1fr));gap:18px 24px}
svg{width:100%;height:auto;display:block}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:8px 0}
th,td{padding:4px 14px 4px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:500;font-size:13px}
.right{text-align:right}
.scroll{overflow-x:auto}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(120px,1fr));gap:16px}
figure{margin:0}
figure img{width:100%;aspect-ratio:1;object-fit:contain;background:#f4f5f7;border-radius:4px}
.pixels{image-rendering:pixelated}
figcaption{font-size:13px;line-height:1.35;color:var(--soft);overflow-wrap:anywhere}
figcaption b{color:var(--ink);font-weight:600}
pre{background:#f6f7f9;border-radius:6px;padding:12px 14px;overflow-x:auto;font-size:13px}
summary{cursor:pointer;color:var(--blue)}
@media(max-width:520px){.charts{grid-template-columns:1fr}}
@media print{h2{break-after:avoid}svg,figure,.card{break-inside:avoid}}
"""

# What the page may load: nothing that is not within it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A part of a page; `body` is HTML."""

    title: str
    words: str  # one or two sentences for the reader
    body: str


def render(title: str, subtitle: str, head: str, sections: Iterable[Section]) -> str:
    """Return a page; title and words are escaped here, `head` and bodies are HTML."""
    parts = "".join(
        f"<section><h2>{escape(each.title)}</h2>"
        + (f"<p>{escape(each.words)}</p>" if each.words else "")
        + f"{each.body}</section>\n"
        for each in sections
        if each.body
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>{head}\n{parts}</body></html>\n"
    )


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Return figures in boxes: (what, how much) each."""
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in values
    )
    return f'<div class="cards">{inner}</div>'


def charts(svgs: Iterable[str]) -> str:
    """Return diagrams side by side, where the window is wide enough; empty ones left out."""
    inner = "".join(f"<div>{svg}</div>" for svg in svgs if svg)
    return f'<div class="charts">{inner}</div>' if inner else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """Return a table; the last `numbers` columns stand to the right."""
    first_number = len(columns) - numbers

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=right' if index >= first_number else ''}>{escape(cell)}</{tag}>"
            for index, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{line(columns, 'th')}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    """Return what a reader can open."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def preformatted(text: str) -> str:
    """Return text as it stands."""
    return f"<pre>{escape(text)}</pre>"


def picture(image: np.ndarray, caption: Sequence[str]) -> str:
    """Return an image uint8 [H, W, C] with lines below it, the first in bold."""
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    drawn = Image.fromarray(pixels)
    is_small = max(drawn.size) <= SMALL
    if not is_small:
        drawn.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    kind = "png" if is_small else "jpeg"
    drawn.save(file, kind, **({"optimize": True} if is_small else {"quality": 85}))
    data = base64.b64encode(file.getvalue()).decode()
    shown = ' class="pixels"' if is_small else ""
    first, *rest = map(escape, caption)
    return (
        f'<figure><img{shown} alt="{first}" src="data:image/{kind};base64,{data}">'
        f"<figcaption><b>{first}</b>{''.join(f'<br>{line}' for line in rest)}</figcaption></figure>"
    )


def pictures(inner: Iterable[str]) -> str:
    """Return pictures in a grid."""
    return f'<div class="pictures">{"".join(inner)}</div>'
