"""Find a published checkpoint in a cache, or download, verify and store it.

Files are stored in Keras' cache, `~/.keras/models` or `$KERAS_HOME/models`. Files are also read
from the caches of torch and of the Hugging Face hub, so that nothing is downloaded twice, but
nothing is written there. The download uses neither `keras.utils.get_file` nor huggingface_hub. The
former has no timeouts, and writes to the final name before it verifies the file; the latter would
be an additional requirement for a single GET request.

Environment variables:

- `KERAS_CNNS_OFFLINE`: if it is 1, nothing is downloaded.
- `HF_HUB_OFFLINE`: if it is 1, nothing is downloaded from the Hugging Face hub (timm's weights).
- `HF_ENDPOINT`, `KERAS_CNNS_TORCHVISION_MIRROR`, `KERAS_CNNS_KERAS_MIRROR`: URLs of mirrors, each
  of which replaces the beginning of a publisher's URLs (see `MIRRORS`).
- `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`: as urllib reads them.
"""

import hashlib
import logging
import os
import re
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any

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
_STALL_SECONDS = 20.0  # maximum time without receiving a byte of the file
_CHUNK = 1 << 20  # bytes
_TRUE = ("1", "ON", "YES", "TRUE")  # the values that huggingface_hub accepts as true
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST_SUFFIX = ".sha256"  # suffix of the file with the SHA-256 that the hub has sent


class DownloadError(WeightsError):
    """A published checkpoint is in no cache and cannot be downloaded, or has a wrong checksum."""


def fetch(row: Pretrained) -> Path:
    """Return the path of a published checkpoint, after downloading it if no cache has it.

    A file is verified in each call. A cached file with a wrong checksum is not used; it is replaced
    if the right file can be downloaded.

    Raises:
        DownloadError: the file cannot be downloaded, or downloads are disabled; the message has the
            URL, the reason, and the path at which the file can be stored by hand.
    """
    damaged = []
    for path in _cached_files(row):
        if reason := _mismatch(path, row):
            logger.warning("%s is not used: %s", path, reason)
            damaged.append(f"{path} is not used: {reason}.")
        else:
            return path
    url, target = url_of(row), cache_path(row)
    if variable := _offline_by(row):
        raise DownloadError(_describe(row, f"{variable} disables downloads", damaged))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"cannot create the folder {target.parent} for {row.name}: {error.strerror}; set "
            "KERAS_HOME to a folder that can be written"
        ) from error
    try:
        _download(url, target, row)
    except (OSError, HTTPException, _WrongFileError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # close the connection, which the error holds
        raise DownloadError(_describe(row, _reason(error), damaged)) from error
    return target


def is_cached(row: Pretrained) -> bool:
    """Return whether a cache has the file of a row; the checksum is not verified."""
    return bool(_cached_files(row))


def cache_path(row: Pretrained) -> Path:
    """Return the path at which the file of a row is stored, or can be stored by hand."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    return home / "models" / row.file_name


def url_of(row: Pretrained) -> str:
    """Return the URL of a row, on a mirror if the environment specifies one."""
    variable, published = MIRRORS[row.publisher]
    mirror = os.environ.get(variable, "").rstrip("/")
    return mirror + row.url.removeprefix(published) if mirror else row.url


class _WrongFileError(Exception):
    """The downloaded file is not the published file."""


def _cached_files(row: Pretrained) -> list[Path]:
    candidates = [cache_path(row)]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if row.publisher == "torchvision":
        home = Path(os.environ.get("TORCH_HOME") or caches / "torch").expanduser()
        candidates.append(home / "hub" / "checkpoints" / row.file_name)
    if row.publisher == "timm":
        home = Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser()
        hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
        repository = hub / f"models--{row.name.replace('/', '--')}"
        try:
            revision = (repository / "refs" / row.checksum.value).read_text("utf-8").strip()
        except OSError:
            revision = row.checksum.value
        candidates.append(repository / "snapshots" / revision / "model.safetensors")
    return [path for path in candidates if path.is_file()]


def _offline_by(row: Pretrained) -> str | None:
    """Return the environment variable that disables the download of a row, if any does."""
    variables = (OFFLINE, "HF_HUB_OFFLINE") if row.publisher == "timm" else (OFFLINE,)
    return next((name for name in variables if os.environ.get(name, "").upper() in _TRUE), None)


def _mismatch(path: Path, row: Pretrained) -> str | None:
    """Return why a cached file is not the published file; None if no difference is found."""
    kind, expected = row.checksum
    if kind == "hub-revision":
        # Our cache has the SHA-256 in a second file. In the hub's cache, `path` is a link to a file
        # whose name is its SHA-256.
        try:
            expected = path.with_name(path.name + _DIGEST_SUFFIX).read_text("utf-8").strip()
        except OSError:
            expected = path.resolve().name
        if not _SHA256.fullmatch(expected):
            return None  # the file was stored by hand; the reader checks its structure
    digest = _new_digest(row)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return _difference(digest.hexdigest(), expected, row)


def _new_digest(row: Pretrained) -> Any:
    if row.checksum.kind == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha256()


def _difference(found: str, expected: str, row: Pretrained) -> str | None:
    """Describe the difference if a digest does not begin with `expected`; else return None."""
    if found.startswith(expected):
        return None
    algorithm = "MD5" if row.checksum.kind == "md5" else "SHA-256"
    return f"its {algorithm} is {found[: len(expected)]} instead of the published {expected}"


def _download(url: str, target: Path, row: Pretrained) -> None:
    """Download to a temporary file, verify it, and rename it to its final name.

    Raises:
        OSError, HTTPException: the connection fails, is too slow or ends early.
        _WrongFileError: the file is not the published file.
    """
    announced: dict[str, str] = {}
    response = _within(_CONNECT_SECONDS, lambda: _open(url, announced))
    with response, _temporary(target) as partial:
        length = response.headers.get("Content-Length")
        size = int(length) if length and length.isdecimal() else None
        digest = _new_digest(row)
        with partial.open("wb") as file, _progress(row.file_name, size) as advance:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                advance(len(chunk))
            written = file.tell()
            file.flush()
            os.fsync(file.fileno())
        if size is not None and written != size:
            raise _WrongFileError(f"the connection ended after {written:,} of {size:,} bytes")
        expected, found = row.checksum.value, digest.hexdigest()
        if row.checksum.kind == "hub-revision":
            expected = announced.get("sha256", "")
            if not expected:
                raise _WrongFileError(
                    f"{url} sends no SHA-256 in the header X-Linked-Etag, as the hub does"
                )
        if reason := _difference(found, expected, row):
            raise _WrongFileError(f"the downloaded file is a different one: {reason}")
        if row.checksum.kind == "hub-revision":
            target.with_name(target.name + _DIGEST_SUFFIX).write_text(f"{found}\n", "utf-8")
        partial.replace(target)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, except from HTTPS to HTTP, and read the hub's SHA-256 in their headers."""

    def __init__(self, announced: dict[str, str]) -> None:
        self._announced = announced

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request of the new URL."""
        self.read_announcement(headers)
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            fp.close()
            raise urllib.error.URLError(f"the server redirects to {newurl}, without TLS")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def read_announcement(self, headers: HTTPMessage) -> None:
        """Store the SHA-256 that the hub announces."""
        etag = headers.get("X-Linked-Etag", "").strip('W/"')
        if _SHA256.fullmatch(etag):
            self._announced.setdefault("sha256", etag)


def _open(url: str, announced: dict[str, str]) -> Any:
    """Open a URL; store the SHA-256 that the hub announces in `announced`."""
    redirects = _Redirects(announced)
    request = urllib.request.Request(
        url, headers={"User-Agent": "keras-cnns", "Accept-Encoding": "identity"}
    )
    response = urllib.request.build_opener(redirects).open(request, timeout=_STALL_SECONDS)
    redirects.read_announcement(response.headers)
    return response


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """Call a function in a thread, and raise TimeoutError if it takes too long.

    This is necessary because the timeout of a socket does not limit the resolution of a host's
    name, and applies to each address of the host separately.
    """
    results: list[Any] = []
    errors: list[BaseException] = []
    abandoned = threading.Event()

    def call() -> None:
        try:
            result = function()
            if abandoned.is_set():
                result.close()
            results.append(result)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        abandoned.set()
        raise TimeoutError(f"the server has not answered within {seconds:g} seconds")
    return results[0]


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Yield the path of an empty file beside the target; finally delete it if it exists."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        partial.chmod(0o644)  # mkstemp creates private files, but several users may share a cache
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _progress(name: str, size: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if standard error is a terminal; yield its function `advance(bytes)`."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=size)
        yield lambda count: progress.advance(task, count)


def _reason(error: Exception) -> str:
    """Return why a download failed, as a clause."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return getattr(error.reason, "strerror", None) or str(error.reason)
    if isinstance(error, TimeoutError) and str(error) == "timed out":
        return "the server has stopped sending"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


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
