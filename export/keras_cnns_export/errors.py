"""The exceptions of this package, and the conversion of all other exceptions to them."""

import contextlib
import errno
import functools
import re
from collections.abc import Callable, Collection, Iterator
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Numbers of the errors that affect every format. In the order of the list: the disk is full, a
# quota is reached, the file is too large, the file system is read-only, permissions forbid writing,
# the disk is broken.
DISK_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
)

_MAX_REASON = 300  # maximum number of characters that are quoted from another library's message
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # Keras prints its messages in bold


class ExportError(ValueError):
    """Nothing was published; the message states the error, its location and a remedy."""


class FormatError(ExportError):
    """One format failed; `format` is its name. The other formats can be published without it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.format = name


def check_names(kind: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise `ExportError` unless `names` has at least one name and all are among `known`."""
    if isinstance(names, str):
        raise ExportError(f"{kind}s must be a list of names, as ({names!r},), not one string")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ExportError(f"unknown {kind} {unknown[0]!r}; there are: {', '.join(known)}")
    if not names:
        raise ExportError(f"no {kind} was given; there are: {', '.join(known)}")


def in_one_line(error: BaseException) -> str:
    """Return an exception's message on one line, preceded by its type unless it is a ValueError."""
    text = " ".join(_COLOURS.sub("", str(error)).split())
    if len(text) > _MAX_REASON:
        text = f"{text[:_MAX_REASON]}..."
    is_sentence = isinstance(error, ValueError) and text
    return text if is_sentence else f"{type(error).__name__}: {text}".removesuffix(": ")


def raises_export_error(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function so that every exception leaves it as an `ExportError`."""

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(in_one_line(error)) from error

    return wrapper


@contextlib.contextmanager
def failures_of(name: str) -> Iterator[None]:
    """Convert every exception within the block to a `FormatError` for the format `name`.

    An OSError whose number is in `DISK_ERRORS` is not converted, because the format is not to blame
    for a disk that is full or cannot be written. Every other OSError is converted, for example one
    about a missing shared library.
    """
    try:
        yield
    except FormatError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        raise FormatError(name, f"{name}: {in_one_line(error)}") from error
