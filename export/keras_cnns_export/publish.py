"""Publish a version atomically: a reader sees all of it or nothing.

A version is written in `<model>/.partial-<unique>/version/`, flushed to the disk and renamed to
`<model>/<next number>/`. Meanwhile, the exporting process holds a lock on a file beside `version/`.
The system releases the lock when the process ends for any reason, so a later export can recognize
the files of an export that was killed, and keep the files of a running export.

This module does not need TensorFlow or Keras.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from keras_cnns.files import flush
from keras_cnns.runs.lock import lock
from keras_cnns_export.errors import ExportError

_PARTIAL = ".partial-"
_LOCK = "lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_IN_USE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # errors of `rename`


def check_model_directory(to: str | os.PathLike[str]) -> Path:
    """Return `models/NAME` as a path, after checks of its name.

    Raises:
        ExportError: NAME has forbidden characters, looks like a version, or is a file.
    """
    path = Path(to)
    if not _NAME.fullmatch(path.name):
        raise ExportError(
            f"cannot export to {os.fspath(to)!r}: its last part names the model, and must consist "
            "of letters, digits, '.', '_' and '-' and begin with a letter or digit, as in "
            "models/digits"
        )
    if path.name.isdigit():
        raise ExportError(
            f"cannot export to {os.fspath(to)!r}: {path.name!r} looks like a version, and the "
            "export numbers versions itself; give the model's directory, as in models/digits"
        )
    if path.exists() and not path.is_dir():
        raise ExportError(f"cannot export to {os.fspath(to)!r}: a file of that name exists")
    return path


class Draft:
    """A version being written: fill `path`, then call `publish()`.

    ```
    with Draft(Path("models/digits")) as draft:
        (draft.path / "labels.txt").write_text("zero\\none\\n")
        version = draft.publish()  # models/digits/1
    ```

    Entering the context creates the model's directory if it is missing, and removes the remains of
    exports that were killed. Leaving the context removes a version that was not published.
    """

    path: Path  # the directory to fill; the umask determines the modes of its files

    def __init__(self, model_directory: Path) -> None:
        self.model_directory = model_directory
        self._created_model_directory = False
        self._partial: Path | None = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self._created_model_directory = not self.model_directory.exists()
        try:
            self._open()
            sweep(self.model_directory)
            self.path.mkdir()
        except BaseException:
            self._remove()
            raise
        return self

    def _open(self) -> None:
        """Create and lock the partial directory; retry if another export removes it."""
        while True:
            self.model_directory.mkdir(parents=True, exist_ok=True)
            try:
                self._partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.model_directory))
                self._lock = _lock(self._partial)
            except FileNotFoundError:  # a concurrent export removed one of the directories
                continue
            if self._lock is not None:
                self.path = self._partial / "version"
                return

    def publish(self, beside: Mapping[str, str | None] | None = None) -> Path:
        """Flush every file, give the version the next free number, and return its path.

        Args:
            beside: file name -> text, for files that describe the highest version and lie beside
                the versions. Each file is replaced atomically; if its text is None, it is removed.

        Raises:
            IsADirectoryError: a directory has the name of one of these files; nothing is published.
        """
        beside = beside or {}
        for name in beside:
            if (path := self.model_directory / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        texts = self.path.parent / "beside"
        texts.mkdir()
        for name, text in beside.items():
            if text is not None:
                (texts / name).write_text(text, encoding="utf-8")
        _flush_tree(self.path.parent)
        with _exclusive(self.model_directory):
            version = self._rename()
            for name, text in beside.items():
                path = self.model_directory / name
                if text is None:
                    path.unlink(missing_ok=True)
                else:
                    (texts / name).replace(path)
        flush(self.model_directory)
        flush(self.model_directory.parent)
        return version

    def _rename(self) -> Path:
        while True:
            version = self.model_directory / str(_next_version(self.model_directory))
            try:
                self.path.rename(version)
            except OSError as error:
                if error.errno not in _NAME_IN_USE:
                    raise
                # Another export has published this number: try the next one.
            else:
                return version

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        if self._created_model_directory:
            # This fails if the directory contains a version or another export.
            with contextlib.suppress(OSError):
                self.model_directory.rmdir()


@contextlib.contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Let only one process at a time run the block.

    The system releases the lock when the process ends for any reason.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def sweep(model_directory: Path) -> None:
    """Remove the partial directories of exports that were killed; keep those of running exports.

    On Windows, and on a file system without `flock`, nothing is removed, because a killed export
    cannot be distinguished from a running one.
    """
    if not _has_locks(model_directory):
        return
    for partial in model_directory.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError):  # a concurrent sweep is removing it
            descriptor = _lock(partial)
            if descriptor is not None:
                shutil.rmtree(partial, ignore_errors=True)
                os.close(descriptor)


def _has_locks(directory: Path) -> bool:
    """Return whether files in a directory can be locked."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            return lock(file.fileno())
    except OSError:  # for example, the directory does not exist yet
        return False


def _lock(partial: Path) -> int | None:
    """Lock the lock file of `partial`, and return its descriptor.

    Return None if another process holds the lock, or if the file was removed meanwhile.
    """
    descriptor = os.open(partial / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(descriptor)
        # A link count of 0 means that the file was removed between `open` and `flock`.
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _next_version(model_directory: Path) -> int:
    names = (entry.name for entry in model_directory.iterdir())
    return 1 + max((int(name) for name in names if re.fullmatch("[0-9]+", name)), default=0)


def _flush_tree(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir():
            _flush_tree(entry)
        else:
            flush(entry)
    flush(directory)
