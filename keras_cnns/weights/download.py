"""Find a published checkpoint in a cache, or download, verify and store it.

`keras.utils.get_file` downloads the files of torchvision and keras.applications to Keras' cache,
`~/.keras/models` or `$KERAS_HOME/models`. The package huggingface_hub, which is the extra `hub`,
downloads the files of timm to its own cache. A file that is already in one of these caches, or in
torch's, is used without a download.

This module adds what the two libraries lack:

- A time limit for a machine without a network. get_file waits as long as the operating system does,
  and hf_hub_download repeats its first request for minutes. Therefore a request of our own, which
  has a time limit, precedes each download; it also shows where the server redirects to.
- A comparison with the published digest. get_file needs the complete digest, but torchvision
  publishes only the first eight digits. Besides, get_file writes a file under its final name before
  it compares the digest. hf_hub_download compares only the size of the file.
- A standard output without the progress, which get_file prints there.

Environment variables:

- `KERAS_CNNS_OFFLINE`: if it is 1, nothing is downloaded.
- `HF_HUB_OFFLINE`: if it is 1, nothing is downloaded from the Hugging Face hub (timm's weights).
- `HF_ENDPOINT`, `KERAS_CNNS_TORCHVISION_MIRROR`, `KERAS_CNNS_KERAS_MIRROR`: URLs of mirrors, each
  of which replaces the beginning of a publisher's URLs (see `MIRRORS`).
- `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`: as both libraries read them.
"""

import hashlib
import io
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

import keras

from keras_cnns.weights.errors import WeightsError
from keras_cnns.weights.pretrained import Pretrained

logger = logging.getLogger(__name__)

OFFLINE = "KERAS_CNNS_OFFLINE"
# Publisher -> environment variable, and the beginning of the publisher's URLs that the variable's
# value replaces.
MIRRORS = {
    "torchvision": ("KERAS_CNNS_TORCHVISION_MIRROR", "https://download.pytorch.org/models"),
    "timm": ("HF_ENDPOINT", "https://huggingface.co"),
    "keras": (
        "KERAS_CNNS_KERAS_MIRROR",
        "https://storage.googleapis.com/tensorflow/keras-applications/resnet",
    ),
}
# Maximum time until the server answers, including the resolution of the host's name.
_CONNECT_SECONDS = 10.0
# Maximum time without receiving a byte of a file of torchvision or Keras; huggingface_hub has a
# limit of its own.
_STALL_SECONDS = 20.0
_TRUE = ("1", "ON", "YES", "TRUE")  # the values that huggingface_hub accepts as true
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class DownloadError(WeightsError):
    """A published checkpoint is in no cache and cannot be downloaded, or has a wrong checksum."""


def fetch(row: Pretrained) -> Path:
    """Return the path of a published checkpoint, after downloading it if no cache has it.

    A file is verified in each call. A cached file with a wrong checksum is not used; the right file
    is downloaded if that is possible.

    Raises:
        DownloadError: the file cannot be downloaded, or downloads are disabled; the message has the
            URL, the reason, and the path at which the file can be stored by hand.
    """
    path, damaged = _search_caches(row)
    if path is not None:
        return path
    if variable := disabled_by(row):
        raise DownloadError(_describe(row, f"{variable} disables downloads", damaged))
    try:
        if row.publisher == "timm":
            return _download_from_hub(row, replace=bool(damaged))
        return _download(row)
    except Exception as error:  # get_file raises Exception itself
        raise DownloadError(_describe(row, _reason(error), damaged)) from error


def find_cached(row: Pretrained) -> Path | None:
    """Return the path of a published checkpoint in a cache, after verifying it, if there is one."""
    path, _ = _search_caches(row)
    return path


def is_cached(row: Pretrained) -> bool:
    """Return whether a cache has the file of a row; the checksum is not verified."""
    return bool(_cached_files(row))


def cache_path(row: Pretrained) -> Path:
    """Return the path in Keras' cache at which the file of a row can be stored by hand."""
    home = _expand(os.environ.get("KERAS_HOME") or "~/.keras")
    return home / "models" / row.file_name


def url_of(row: Pretrained) -> str:
    """Return the URL of a row, on a mirror if the environment specifies one."""
    variable, published = MIRRORS[row.publisher]
    mirror = os.environ.get(variable, "").rstrip("/")
    return mirror + row.url.removeprefix(published) if mirror else row.url


def disabled_by(row: Pretrained) -> str | None:
    """Return the environment variable that disables the download of a row, if any does."""
    variables = (OFFLINE, "HF_HUB_OFFLINE") if row.publisher == "timm" else (OFFLINE,)
    return next((name for name in variables if os.environ.get(name, "").upper() in _TRUE), None)


def _search_caches(row: Pretrained) -> tuple[Path | None, list[str]]:
    """Return the first cached file with the right checksum, and a sentence for each wrong file."""
    damaged: list[str] = []
    for path in _cached_files(row):
        try:
            reason = _mismatch(path, row)
        except OSError as error:
            reason = f"it cannot be read ({error.strerror})"
        if not reason:
            return path, damaged
        logger.warning("%s is not used: %s", path, reason)
        damaged.append(f"{path} is not used: {reason}.")
    return None, damaged


def _cached_files(row: Pretrained) -> list[Path]:
    candidates = [cache_path(row)]
    if row.publisher == "torchvision":
        home = _expand(os.environ.get("TORCH_HOME") or _user_cache() / "torch")
        candidates.append(home / "hub" / "checkpoints" / row.file_name)
    if row.publisher == "timm":
        repository = _hub_cache() / f"models--{row.name.replace('/', '--')}"
        try:
            revision = (repository / "refs" / row.checksum.value).read_text("utf-8").strip()
        except OSError:
            revision = row.checksum.value
        candidates.append(repository / "snapshots" / revision / "model.safetensors")
    return [path for path in candidates if os.path.isfile(path)]  # noqa: PTH113 - raises no error


def _user_cache() -> Path:
    return _expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _hub_cache() -> Path:
    home = _expand(os.environ.get("HF_HOME") or _user_cache() / "huggingface")
    return _expand(os.environ.get("HF_HUB_CACHE") or home / "hub")


def _expand(path: str | Path) -> Path:
    """Expand "~"; without a home directory, the path stays as it is, as in Keras."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises an error


def _mismatch(path: Path, row: Pretrained, announced: str = "") -> str | None:
    """Return why a file is not the published file; None if no difference is found.

    For a file from the hub, `announced` is the SHA-256 that the hub has sent. If it is "", the
    SHA-256 is known only if the path is a link in the hub's cache, to a file whose name is the
    SHA-256, or if an earlier version stored the SHA-256 in a second file in Keras' cache.
    """
    kind, expected = row.checksum
    if kind == "hub-revision":
        second = path.with_name(f"{path.name}.sha256")
        if announced:
            expected = announced
        elif second.is_file():
            expected = second.read_text("utf-8").strip()
        elif path.is_symlink():
            expected = path.readlink().name
        if not _SHA256.fullmatch(expected):
            return None  # the file was stored by hand; the reader checks its structure
    name = "MD5" if kind == "md5" else "SHA-256"
    digest = hashlib.new(name.replace("-", ""), usedforsecurity=False)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: digest).hexdigest()
    if found.startswith(expected):
        return None
    return f"its {name} is {found[: len(expected)]} instead of the published {expected}"


def _download(row: Pretrained) -> Path:
    """Download a file to a temporary folder, verify it, and rename it to its final name."""
    url, target = url_of(row), cache_path(row)
    target.parent.mkdir(parents=True, exist_ok=True)

    def resolve() -> str:
        with urlopen(url, timeout=_STALL_SECONDS) as response:
            return str(response.url)

    _check_encryption(url, _in_time(resolve))
    progress = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with (
        TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder,
        redirect_stdout(progress),
        _socket_timeout(_STALL_SECONDS),
    ):
        partial = Path(keras.utils.get_file(target.name, url, cache_dir=folder, cache_subdir=""))
        if reason := _mismatch(partial, row):
            raise ValueError(f"the downloaded file is a different one: {reason}")
        partial.replace(target)
    return target


def _download_from_hub(row: Pretrained, replace: bool) -> Path:
    """Download a file to the hub's cache and verify it; `replace` ignores a cached file."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download
    except ModuleNotFoundError as error:
        raise ImportError(
            "this needs the package huggingface_hub: pip install 'keras-cnns[hub]'"
        ) from error
    url = url_of(row)
    metadata = _in_time(lambda: get_hf_file_metadata(url, timeout=_STALL_SECONDS))
    _check_encryption(url, metadata.location)
    if not _SHA256.fullmatch(metadata.etag or ""):
        raise ValueError("the server announces no SHA-256 in the header X-Linked-Etag")
    path = Path(
        hf_hub_download(
            row.name,
            row.url.rpartition("/")[2],
            revision=row.checksum.value,
            cache_dir=_hub_cache(),
            endpoint=url.partition(f"/{row.name}/")[0],
            force_download=replace,
        )
    )
    if reason := _mismatch(path, row, metadata.etag):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ValueError(f"the downloaded file is a different one: {reason}")
    return path


def _check_encryption(url: str, location: str) -> None:
    if url.startswith("https:") and not location.startswith("https:"):
        raise ValueError(f"the server redirects to {location}, without TLS")


def _in_time(request: Callable[[], T]) -> T:
    """Call a function in a thread, and raise TimeoutError if it takes too long.

    The timeout of a socket does not limit the resolution of a host's name, and applies to each
    address of the host separately.
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(request())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    if not wait([future], _CONNECT_SECONDS).done:
        raise TimeoutError(f"the server has not answered within {_CONNECT_SECONDS:g} seconds")
    return future.result()


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """Return why a download failed, as a clause."""
    # get_file raises a plain Exception, whose `__context__` is the error that caused it.
    cause = error.__context__ if type(error) is Exception else error
    if isinstance(cause, HTTPError):
        cause.close()  # close the connection, which the error holds
    text = re.sub(r"^<urlopen error (.*)>$", r"\1", str(cause))
    return " ".join(text.split()) or type(cause).__name__


def _describe(row: Pretrained, reason: str, damaged: list[str]) -> str:
    """Return the message of an error, with the URL, the reason and the remedy."""
    variable, _ = MIRRORS[row.publisher]
    return "\n".join(
        (
            f"{row.name} cannot be downloaded from {url_of(row)}: {reason}",
            *damaged,
            f"Download that URL where there is a network, and store the file as {cache_path(row)}.",
            f"If a mirror of the server has the file, set {variable} to the mirror's URL.",
        )
    )
