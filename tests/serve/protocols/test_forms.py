"""Forms, as clients write them."""

from typing import Any

import pytest

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.protocols.forms import MAX_FILES, MAX_PARTS, files_of

KIND = "multipart/form-data; boundary=b"
IMAGE = bytes(range(256)) + b"\r\n--\r\n"
FILE = 'Content-Disposition: form-data; name="image"; filename="a.png"'


def part(*headers: str, content: bytes = IMAGE) -> bytes:
    head = "".join(f"{header}\r\n" for header in headers).encode()
    return b"--b\r\n" + head + b"\r\n" + content + b"\r\n"


END = b"--b--\r\n"
NOTE = part('Content-Disposition: form-data; name="note"', content=b"text")
FORMS = {
    "a file": part(FILE, "Content-Type: image/png") + END,
    "no filename": part('Content-Disposition: form-data; name="image"') + END,
    "filename* alone": part(
        "Content-Disposition: form-data; name=image; filename*=UTF-8''na%C3%AFve.png"
    )
    + NOTE
    + END,
    "beside another field": NOTE + part(FILE) + END,
    "beside a field called filename": part('Content-Disposition: form-data; name="filename"')
    + part(FILE)
    + END,
    "a preamble": b"This is a form.\r\n\r\n" + part(FILE) + END,
    "an epilogue": part(FILE) + END + b"the end",
    "no line break at the end": part(FILE) + END[:-2],
    "a blank line before": b"\r\n" + part(FILE) + END,
    "no headers": part() + END,
    "headers in upper case": part(FILE.upper()) + END,
}


@pytest.mark.parametrize("name", FORMS)
def test_an_image_is_found(name: str) -> None:
    assert files_of(FORMS[name], KIND) == [IMAGE]


def test_files_keep_their_order() -> None:
    contents = [bytes([n]) * 1000 * n for n in range(MAX_FILES)]
    body = b"".join(part(FILE, content=content) for content in contents) + END
    assert files_of(body, 'multipart/form-data; charset=utf-8; boundary="b"') == contents


@pytest.mark.parametrize(
    ("body", "kind", "error", "message"),
    [
        (part(FILE) + END, "multipart/form-data", InvalidInputError, "no boundary"),
        (part(FILE), KIND, InvalidInputError, "its last boundary is missing"),
        (part(FILE)[:-10], KIND, InvalidInputError, "its last boundary is missing"),
        (b"", KIND, InvalidInputError, "its last boundary is missing"),
        (b"x" * 100, KIND, InvalidInputError, "the form is damaged"),
        (END, KIND, InvalidInputError, "damaged|no file"),
        (part("A: " + "b" * 10**6) + END, KIND, InvalidInputError, "header size exceeded"),
        (part(*["A: b"] * 10**5) + END, KIND, InvalidInputError, "header count exceeded"),
        (part(FILE) * (MAX_FILES + 1) + END, KIND, InputTooLargeError, "64 files, not 65"),
        (part() * 10**5 + END, KIND, InputTooLargeError, f"can have at most {MAX_PARTS} fields"),
    ],
)
def test_what_is_wrong_is_reported(
    body: bytes, kind: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        files_of(body, kind)


@pytest.mark.parametrize("filling", [b"\r\n", b"\r\n--", b"-", b"\r", b"--b", b"b"])
def test_what_looks_like_boundaries_is_content(filling: bytes) -> None:
    content: Any = b"x" + filling.replace(b"--b", b"--c") * 100_000
    assert files_of(part(FILE, content=content) + END, KIND) == [content]
