import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from keras_cnns.report import page

HOSTILE = "<script>alert('&')</script>\""


def test_what_others_wrote_is_escaped() -> None:
    html = page.render(
        HOSTILE,
        HOSTILE,
        page.cards([(HOSTILE, HOSTILE)]),
        [
            page.Section(HOSTILE, HOSTILE, page.table((HOSTILE,), [(HOSTILE,)])),
            page.Section("a", "", page.details(HOSTILE, page.preformatted(HOSTILE))),
            page.Section("b", "", page.picture(np.zeros((2, 2, 1), "uint8"), (HOSTILE, HOSTILE))),
        ],
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 14
    assert 'alt="&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;&quot;"' in html


def test_an_empty_section_is_left_out() -> None:
    assert "<h2>" not in page.render("t", "s", "", [page.Section("nothing", "words", "")])


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
    html = page.picture(pixels, ("a",))
    found = re.search(rf"data:image/{kind};base64,([^\"]+)", html)
    assert found
    drawn = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert drawn.size == size
    if kind == "png":
        np.testing.assert_array_equal(np.asarray(drawn).reshape(shape), pixels)
