"""Read text files from any editor: UTF-8, with or without a byte order mark."""

import codecs
from pathlib import Path


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file without byte order mark; lines end with "\\n".

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8. The message explains how to convert the file, and does
            not contain its path.
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
