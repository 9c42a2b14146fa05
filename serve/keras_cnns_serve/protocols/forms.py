"""Parse forms with files: multipart/form-data, RFC 7578."""

import re

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError

MAX_FILES = 64
MAX_PARTS = 256  # maximum number of fields, files included
_DISPOSITION = b"content-disposition"
_FILENAME = re.compile(rb";\s*filename\*?\s*=", re.IGNORECASE)


def files_of(body: bytes, content_type: str) -> list[bytes]:
    """Return the contents of a form's files, or of all its fields if no field has a file name.

    Args:
        body: the form.
        content_type: the value of the header Content-Type, which contains the boundary.

    Raises:
        InvalidInputError: the form is damaged, or has no field.
        InputTooLargeError: the form has more than `MAX_FILES` files, or more than `MAX_PARTS`
            fields.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidInputError("the form has no boundary in its Content-Type")
    form = _Form()
    # Skip the preamble before the first boundary, which python-multipart does not support.
    start = max(0, body.find(b"--" + boundary))
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_part_data": form.data,
                "on_end": form.end,
            },
        )
        parser.write(body[start:])
        parser.finalize()
    except FormParserError as error:
        raise InvalidInputError(f"the form is damaged: {error}") from error
    if not form.ended:
        raise InvalidInputError("the form is truncated: its last boundary is missing")
    files = [b"".join(pieces) for pieces, is_file in form.parts if is_file] or [
        b"".join(pieces) for pieces, _ in form.parts
    ]
    if not files:
        raise InvalidInputError("the form has no file; curl sends one with -F image=@image.png")
    if len(files) > MAX_FILES:
        raise InputTooLargeError(f"a form can have at most {MAX_FILES} files, not {len(files)}")
    return files


class _Form:
    """Collect the parts of a form in python-multipart's callbacks."""

    def __init__(self) -> None:
        # For each part: the pieces of its content, and whether it is a file.
        self.parts: list[tuple[list[bytes], bool]] = []
        self.ended = False
        self._name = self._value = b""  # name and value of the part's current header

    def part(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise InputTooLargeError(f"a form can have at most {MAX_PARTS} fields")
        self.parts.append(([], False))

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        # The pattern also matches `filename*=UTF-8''...` (RFC 5987), which python-multipart does
        # not support.
        if self._name.lower() == _DISPOSITION and _FILENAME.search(self._value):
            self.parts[-1] = (self.parts[-1][0], True)
        self._name = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1][0].append(data[start:end])

    def end(self) -> None:
        self.ended = True
