import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from keras_cnns.report import page

HOSTILE = "<script>alert('&')</script>\""


ESCAPED = "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;&#34;"


def test_text_is_escaped() -> None:
    image = np.zeros((2, 2, 1), "uint8")
    blocks: list[page.Block] = [
        page.Text(HOSTILE),
        page.Code(HOSTILE),
        page.Table((HOSTILE,), [(HOSTILE,)], title=HOSTILE, summary=HOSTILE),
        page.Charts([page.Chart(HOSTILE, HOSTILE, "<svg/>")]),
        page.Pictures([page.Picture(image, (HOSTILE, HOSTILE))]),
    ]
    html = page.render(
        HOSTILE,
        HOSTILE,
        [page.Section(HOSTILE, HOSTILE, blocks), page.Section("empty", "", [page.Charts([None])])],
        page.Cards([(HOSTILE, HOSTILE)]),
    )
    assert "<script" not in html
    # Head, title, section and key metrics; then each of the blocks.
    assert html.count(ESCAPED) == 7 + 1 + 2 + 5 + 3 + 3
    assert f'alt="{ESCAPED}"' in html
    assert "alert('" not in html


def test_an_empty_section_is_left_out() -> None:
    assert "<h2>" not in page.render(
        "t", "s", [page.Section("nothing", "words", [page.Charts([None])])]
    )


@pytest.mark.parametrize(
    ("shape", "kind", "size"),
    [
        ((8, 8, 1), "png", (8, 8)),
        ((32, 48, 3), "png", (48, 32)),
        ((352, 704, 3), "jpeg", (176, 88)),
    ],
)
def test_pictures(shape: tuple[int, ...], kind: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    found = re.fullmatch(rf"data:image/{kind};base64,(.+)", page.Picture(pixels, ("a",)).uri)
    assert found
    drawn = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert drawn.size == size
    if kind == "png":
        np.testing.assert_array_equal(np.asarray(drawn).reshape(shape), pixels)
