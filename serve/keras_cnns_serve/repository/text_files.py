"""Text files as editors on any system write them: UTF-8, perhaps with a byte order mark."""

import codecs
from pathlib import Path


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text without a byte order mark; a line ends with one "\\n".

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8; the message says what to do, but not which file it is.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(
            "it is in UTF-16; save it as UTF-8 (Windows Notepad: Save as, Encoding UTF-8)"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
