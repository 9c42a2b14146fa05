"""Text files as editors on any system write them: UTF-8, perhaps with a byte order mark."""

import codecs
from pathlib import Path

ENCODING = "utf-8-sig"  # UTF-8, whose byte order mark is removed


def read_text(path: str | Path) -> str:
    """Return a UTF-8 file's text without a byte order mark; a line ends with one "\\n".

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8; the message names the file and says what to do.
    """
    content = Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(
            f"{path} is in UTF-16; save it as UTF-8 (Windows Notepad: Save as, Encoding UTF-8)"
        )
    try:
        text = content.decode(ENCODING)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}; save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Return the labels of a file that has one on each line.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or a line is blank or repeats an earlier one.
    """
    # Not splitlines(): it also splits at characters that may be part of a label.
    labels = read_text(path).removesuffix("\n").split("\n")
    first: dict[str, int] = {}
    for line, label in enumerate(labels, 1):
        if not label.strip():
            raise ValueError(f"{path}: line {line} is blank; each line is the label of one class")
        if label in first:
            raise ValueError(
                f"{path}: line {line} repeats the label {label!r} of line {first[label]}; each "
                "class needs its own"
            )
        first[label] = line
    return tuple(labels)
