"""Cache the split of each image in a data set's files, if the split depends on the content.

A division is valid while the sizes and times of all files stay the same. Without a cache directory,
nothing is cached.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cnns.data.sources.by_content import DIVIDED
from keras_cnns.data.sources.cache import (
    cache_directory,
    hash_name,
    is_settled,
    read_archive,
    read_times,
    write_archive,
)

_VERSION = 1  # changes with the format of the archives and with the rule of the division


def archive_path(files: Sequence[str]) -> Path | None:
    """Return the path of the archive for the files as they are now; None if nothing can be cached.

    Call this function before the images are read. If the files change after the call, the path
    still denotes their former state; for the changed files, this function returns another path.
    """
    directory = cache_directory()
    times = [read_times(Path(file)) for file in files]
    if directory is None or not all(each and is_settled(each) for each in times):
        return None
    key = json.dumps([_VERSION, tf.__version__, *zip(files, times, strict=True)])
    return directory / "divisions" / f"{hash_name(key.encode())}.npz"


def find(path: Path | None, count: int) -> np.ndarray | None:
    """Return the index in `DIVIDED` of each image's split, uint8 [count]; None if not cached."""
    if path is None:
        return None
    with contextlib.suppress(Exception):  # the archive is missing or damaged
        division = read_archive(path)["division"]
        if division.shape == (count,) and division.dtype == np.uint8:
            path.touch()  # records the time of the last use
            return division if (division < len(DIVIDED)).all() else None
    return None


def save(path: Path | None, division: np.ndarray) -> None:
    """Cache the index in `DIVIDED` of each image's split, uint8 [N]."""
    if path is not None:
        write_archive(path.parents[1], path, division=division)
