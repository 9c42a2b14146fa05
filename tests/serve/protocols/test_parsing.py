"""Base64, as it is written by clients."""

import base64
from collections.abc import Callable

import pytest

from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.protocols.parsing import from_base64

CONTENTS = [bytes(range(256)) * 3, b"\xff\xfe\xfd", b"\xfb\xff", b"\x00", b""]
WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "standard": base64.b64encode,
    "lines of 76": base64.encodebytes,
    "lines of 64 by CRLF": lambda content: b"\r\n".join(
        base64.b64encode(content)[start : start + 64] for start in range(0, 4 * len(content), 64)
    ),
    "web-safe": base64.urlsafe_b64encode,
    "web-safe without padding": lambda content: base64.urlsafe_b64encode(content).rstrip(b"="),
    "standard without padding": lambda content: base64.b64encode(content).rstrip(b"="),
    "spaces around": lambda content: b" \t" + base64.b64encode(content) + b"\n",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_base64_is_read(writer: str) -> None:
    for content in CONTENTS:
        assert from_base64(WRITERS[writer](content), "x") == content


@pytest.mark.parametrize("text", [b"%", b"a", b"ab=c", "é".encode(), b"abcd\0", b"data:image/png"])
def test_other_text_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match="x is not base64: "):
        from_base64(text, "x")
