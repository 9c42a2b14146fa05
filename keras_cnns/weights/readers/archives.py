"""Recognize truncated zip archives; the files of Keras and torch are zip archives."""

import zipfile
from pathlib import Path

from keras_cnns.weights.errors import WeightsError

_ZIP_START = b"PK\x03\x04"


def check_archive(path: Path) -> None:
    """Check that a file that begins as a zip archive also ends as one.

    Raises:
        WeightsError: the list of contents, which is at the end of an archive, is missing.
    """
    with path.open("rb") as file:
        start = file.read(len(_ZIP_START))
    if start and _ZIP_START.startswith(start) and not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is truncated: the end of the archive is missing")
