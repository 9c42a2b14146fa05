"""The cache directory, whose archives contain facts about data sets for later commands.

An archive is an npz file without pickled objects. A damaged archive is ignored. If the cache
directory cannot be written, nothing is cached.
"""

import contextlib
import hashlib
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = "KERAS_CNNS_CACHE"  # contains the path of the cache directory, or `off` for no cache
MAX_BYTES = 2**30  # maximum size of the cache directory; the least recently used files are removed
SETTLED_SECONDS = 2.0  # FAT records times in steps of 2 s, the largest of all file systems
_FOLDERS = ("scans", "groups", "divisions")
_NAME = re.compile(r"[0-9a-f]+\.npz|.+\.partial")  # the names of cache files
Times = tuple[int, int, int]  # size in bytes; modification and change time in nanoseconds


def cache_directory() -> Path | None:
    """Return the directory of the cache; None if caching is switched off.

    The directory is `$KERAS_CNNS_CACHE`, `$XDG_CACHE_HOME/keras-cnns` or `~/.cache/keras-cnns`.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return None
    with contextlib.suppress(RuntimeError):  # there is no home directory
        if chosen:
            return Path(chosen).expanduser().absolute()
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # By the XDG specification, a relative path must be ignored.
        return (base if base.is_absolute() else Path.home() / ".cache") / "keras-cnns"
    return None


def read_times(path: Path) -> Times | None:
    """Return a file's size and times, which show whether it has changed; None if it is missing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(times: Times) -> bool:
    """Return whether a file's next change is certain to change its times.

    File systems record times in steps, so a file that has just been changed may be changed again
    within the same step.
    """
    return max(times[1:]) < time.time_ns() - int(SETTLED_SECONDS * 1e9)


def write_archive(directory: Path, path: Path, **arrays: Any) -> None:
    """Write an archive atomically, and remove old archives; ignore errors."""
    with contextlib.suppress(OSError):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # Each process writes to its own temporary file, which only the user can read.
        descriptor, partial = tempfile.mkstemp(".partial", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, **arrays)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink()
            raise
        _trim(directory)


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an archive; a damaged archive can raise any exception."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def _trim(directory: Path) -> None:
    """Remove the least recently used files of the cache until it is small enough."""
    paths = [path for folder in _FOLDERS for path in (directory / folder).glob("*")]
    # Check the names, because the user may have chosen a directory that contains other files.
    files = [(path.stat(), path) for path in paths if _NAME.fullmatch(path.name)]
    total = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
        if total <= MAX_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= status.st_size


def hash_name(content: bytes) -> str:
    """Return the name of an archive without its suffix: a hash of the bytes that identify it."""
    return hashlib.sha256(content).hexdigest()[:40]
