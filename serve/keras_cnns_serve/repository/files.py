"""Find the models and versions of a model repository, and read only what is whole.

<repository>/<model>/<version>/model.json, model.onnx, labels.txt, ...
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from keras_cnns_serve.errors import RepositoryError, VersionRefusedError

from .manifest import File, Manifest, read_manifest
from .text_files import read_text

MAX_VERSION = 2**63 - 1  # versions are int64 to every client
MAX_ENTRIES = 10_000  # of a directory of models or versions
MAX_FILES = 1_000  # of a version, its directories included; an export has about ten
# What file systems, editors and Kubernetes leave beside the files: the names of macOS and Windows,
# NFS's deleted files, backups, and the directories that a mounted ConfigMap links to.
LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs.*|.*~|\.\..*", re.DOTALL)


@dataclass(frozen=True)
class ModelVersion:
    """A version whose files are all there and as they were published."""

    name: str
    version: int
    directory: Path
    manifest: Manifest
    labels: tuple[str, ...]  # K, in the order of `probabilities`


@dataclass(frozen=True)
class ModelDirectory:
    """What lies in the directory of one model."""

    versions: dict[int, Path]  # ascending
    problem: str  # why a part of it, or all, cannot be served; mostly empty


def find_models(root: Path) -> dict[str, Path]:
    """Return the models of a repository, by name; or the one model whose directory this is.

    Raises:
        RepositoryError: The directory is missing, unreadable, too large, or is a single version.
    """
    try:
        if not root.is_dir():
            state = "is not a directory" if root.exists() else "does not exist"
            raise RepositoryError(
                f"{root} {state}; give the directory that holds the models, such as models "
                "with models/digits/1/model.json in it"
            )
        if (root / "model.json").exists():
            raise RepositoryError(
                f"{root} is one version of a model; give its model, {root.resolve().parent}, "
                "or the directory of all models"
            )
        single = any((version / "model.json").exists() for version in _versions(root))
        models = [root.resolve()] if single else _subdirectories(root)
    except _TooManyEntriesError as error:
        raise RepositoryError(
            f"{root}: {error}; give the directory that holds the models alone"
        ) from error
    except OSError as error:
        raise RepositoryError(
            f"{error.filename or root} cannot be read: {error.strerror}"
        ) from error
    return {_printable(model.name): model for model in models}


def find_versions(name: str, directory: Path) -> ModelDirectory:
    """Return the versions in a model's directory, read or not.

    Raises:
        OSError: It is missing or unreadable.
    """
    if ":" in name:
        return ModelDirectory({}, "a colon in its name ends the name in a URL")
    if directory.name != _printable(directory.name):
        return ModelDirectory({}, "the name of its directory is not UTF-8")
    versions: dict[int, Path] = {}
    problem = ""
    try:
        paths = _versions(directory)
    except _TooManyEntriesError as error:
        return ModelDirectory({}, str(error))
    for path in paths:
        digits = path.name.lstrip("0")
        # Compared by digits: int() itself refuses numbers of thousands of digits.
        if len(digits) > 19 or int(digits or 0) > MAX_VERSION:
            problem = f"the version {path.name[:30]} is larger than {MAX_VERSION}"
        elif not digits:
            problem = f"its directory {path.name[:30]} is no version: versions begin with 1"
        elif int(digits) in versions:
            first = versions[int(digits)].name
            problem = f"its directories {first[:30]} and {path.name[:30]} are the same version"
        else:
            versions[int(digits)] = path
    if not versions and not problem:
        problem = f"it has no version, such as {name}/1/model.json"
    return ModelDirectory(versions, problem)


def read_version(name: str, version: int, directory: Path) -> ModelVersion:
    """Read a version, and every file of it once, to compare it with its checksum.

    Raises:
        VersionRefusedError: It is not what was published, or cannot be read.
    """
    try:
        return _read_version(name, version, directory)
    except OSError as error:
        raise VersionRefusedError(
            f"{error.filename or directory} cannot be read: {error.strerror}"
        ) from error


def fingerprint(directory: Path) -> frozenset[tuple[str, int, int, int]]:
    """Return names, sizes and times of a version's files: they differ if the files change."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in islice(_walk(directory), MAX_FILES):
            with contextlib.suppress(OSError):
                state = entry.stat(follow_symlinks=False)
                # The last one tells of a permission that was given.
                found.add((entry.path, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return frozenset(found)


def may_pass(error: BaseException | None) -> bool:
    """Return whether a version that was refused for this may be taken with the same files.

    So it is with a disk that is gone for a moment, or where files are too many to be opened.
    """
    while error is not None:
        if isinstance(error, OSError):
            return not isinstance(error, FileNotFoundError)
        error = error.__cause__
    return False


def _printable(name: str) -> str:
    """Return a name of the file system as text; bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


class _TooManyEntriesError(Exception):
    """A directory has more entries than are looked at."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"it holds more than {limit:,} files and directories")


def _subdirectories(directory: Path) -> list[Path]:
    """Return its directories, sorted; hidden ones are an exporter's unfinished work, or a tool's.

    Raises:
        _TooManyEntriesError: It is no directory of models or versions.
    """
    found = []
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries, 1):
            if count > MAX_ENTRIES:
                raise _TooManyEntriesError(MAX_ENTRIES)
            path = directory / entry.name
            if not entry.name.startswith(".") and (
                path.is_dir() if entry.is_symlink() else entry.is_dir()
            ):
                found.append(path)
    return sorted(found)


def _walk(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Yield all that lies below a directory, in no order, and enter no links."""
    waiting = [os.fspath(directory)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _versions(model: Path) -> list[Path]:
    """Return the directories named by digits, ascending; leading zeros count for nothing."""
    found = [path for path in _subdirectories(model) if path.name.isascii() and path.name.isdigit()]
    return sorted(found, key=lambda path: (len(path.name.lstrip("0")), path.name.lstrip("0")))


def _read_version(name: str, version: int, directory: Path) -> ModelVersion:
    manifest = read_manifest(directory / "model.json")
    litter = _find_litter(directory, manifest)
    for file in manifest.files.values():
        _verify(directory, file)
    for each in manifest.formats:
        _check_names(directory / each.path, litter)
    labels = _read_labels(directory / manifest.labels)
    if len(labels) != manifest.classes:
        raise VersionRefusedError(
            f"{manifest.labels} has {len(labels)} labels for {manifest.classes} probabilities"
        )
    return ModelVersion(name, version, directory, manifest, labels)


def _find_litter(directory: Path, manifest: Manifest) -> set[str]:
    """Return the names of the entries to ignore.

    Raises:
        VersionRefusedError: There is a file or a link that model.json does not list: an engine
            could load it, as the external data of a graph, and nobody has verified it.
    """
    litter = set()
    listed = manifest.files.keys() | {"model.json"}
    for count, entry in enumerate(_walk(directory), 1):
        if count > MAX_FILES:
            raise VersionRefusedError(str(_TooManyEntriesError(MAX_FILES)))
        path = PurePath(entry.path).relative_to(directory)
        ignored = next((part for part in path.parts if LITTER.fullmatch(part)), None)
        if path.as_posix() in listed or entry.is_dir(follow_symlinks=False):
            continue
        if ignored is None:
            raise VersionRefusedError(
                f"{_printable(path.as_posix())} is not listed in model.json; remove it, or export "
                "the version again"
            )
        litter.add(ignored)
    return litter


def _check_names(path: Path, names: set[str]) -> None:
    """Refuse a graph that names one of these files: it could load it."""
    if names:
        content = path.read_bytes()
        for name in sorted(names):
            if os.fsencode(name) in content:
                raise VersionRefusedError(
                    f"{path.name} names {_printable(name)}, which is not listed in model.json"
                )


def _verify(directory: Path, file: File) -> None:
    """Refuse a file that is missing, leads elsewhere, or is not what was published."""
    path = directory / file.path
    if not path.resolve().is_relative_to(directory.resolve()):
        raise VersionRefusedError(f"{file.path} is a link out of the version's directory")
    if not path.is_file():
        raise VersionRefusedError(f"{file.path} is missing, or not a file")
    size = path.stat().st_size
    if size != file.size:
        raise VersionRefusedError(f"{file.path} has {size} bytes, and {file.size} in model.json")
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
            raise VersionRefusedError(f"{file.path} does not match its checksum in model.json")


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        text = read_text(path)
    except ValueError as error:
        raise VersionRefusedError(f"{path.name} cannot be read: {error}") from error
    # Not splitlines(): it also splits at characters that may be part of a label.
    labels = tuple(text.removesuffix("\n").split("\n"))
    lines: dict[str, int] = {}
    for line, label in enumerate(labels, 1):
        if not label.strip():
            raise VersionRefusedError(f"{path.name}: line {line} is blank")
        first = lines.setdefault(label, line)
        if first != line:
            raise VersionRefusedError(
                f"{path.name}: line {line} repeats the label {label!r} of line {first}; each "
                "class needs its own"
            )
    return labels
