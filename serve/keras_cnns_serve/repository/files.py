"""Find the models and versions of a model repository, and verify the files of a version.

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

_MAX_VERSION = 2**63 - 1  # versions are int64 in all protocols
MAX_ENTRIES = 10_000  # maximum number of entries in a directory that contains models or versions
MAX_FILES = 1_000  # maximum number of files and directories of a version; an export has about ten
# Files that macOS, Windows, NFS (for deleted files) and editors (as backups) create, and the
# directories to which the links of a mounted Kubernetes ConfigMap lead.
_LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs.*|.*~|\.\..*", re.DOTALL)


@dataclass(frozen=True)
class ModelVersion:
    """A version whose files are complete and match their checksums."""

    name: str
    version: int
    directory: Path
    manifest: Manifest
    labels: tuple[str, ...]  # K labels, in the order of `probabilities`


@dataclass(frozen=True)
class ModelDirectory:
    """The content of a model's directory."""

    versions: dict[int, Path]  # ascending
    problem: str  # why some or all of its content cannot be served; empty if there is no problem


def find_models(root: Path) -> dict[str, Path]:
    """Return the names and directories of the models in `root`, a repository or a single model.

    Raises:
        RepositoryError: the directory is missing or unreadable, has more than `MAX_ENTRIES`
            entries, or is a single version.
    """
    try:
        if not root.is_dir():
            state = "is not a directory" if root.exists() else "does not exist"
            raise RepositoryError(
                f"{root} {state}; give the directory of the models, for instance `models` if there "
                "is models/digits/1/model.json"
            )
        if (root / "model.json").exists():
            raise RepositoryError(
                f"{root} is a version of a model; give the directory of the model, "
                f"{root.resolve().parent}, or of all models"
            )
        single = any((version / "model.json").exists() for version in _versions(root))
        models = [root.resolve()] if single else _subdirectories(root)
    except _TooManyEntriesError as error:
        raise RepositoryError(
            f"{root}: {error}; give a directory that only holds models"
        ) from error
    except OSError as error:
        raise RepositoryError(
            f"{error.filename or root} cannot be read: {error.strerror}"
        ) from error
    return {_printable(model.name): model for model in models}


def find_versions(name: str, directory: Path) -> ModelDirectory:
    """Return the versions in a model's directory, without reading their files.

    Raises:
        OSError: the directory is missing or unreadable.
    """
    if ":" in name:
        return ModelDirectory({}, "its name has a colon, which ends a model's name in a URL")
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
        # int() raises an error for thousands of digits, so check the length first.
        if len(digits) > 19 or int(digits or 0) > _MAX_VERSION:
            problem = f"the version {path.name[:30]} is larger than {_MAX_VERSION}"
        elif not digits:
            problem = f"its directory {path.name[:30]} is not a version; versions start at 1"
        elif int(digits) in versions:
            first = versions[int(digits)].name
            problem = f"its directories {first[:30]} and {path.name[:30]} are the same version"
        else:
            versions[int(digits)] = path
    if not versions and not problem:
        problem = f"it has no version, such as {name}/1/model.json"
    return ModelDirectory(versions, problem)


def read_version(name: str, version: int, directory: Path) -> ModelVersion:
    """Read a version and compare each of its files with its checksum.

    Raises:
        VersionRefusedError: the version differs from its model.json, or cannot be read.
    """
    try:
        return _read_version(name, version, directory)
    except OSError as error:
        raise VersionRefusedError(
            f"{error.filename or directory} cannot be read: {error.strerror}"
        ) from error


def fingerprint(directory: Path) -> frozenset[tuple[str, int, int, int]]:
    """Return the paths, sizes and times of a version's files, in order to detect changes."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in islice(_walk(directory), MAX_FILES):
            with contextlib.suppress(OSError):
                state = entry.stat(follow_symlinks=False)
                # The ctime changes when a permission changes.
                found.add((entry.path, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return frozenset(found)


def is_temporary(error: BaseException | None) -> bool:
    """Return whether the cause of a refusal may disappear although the files do not change.

    Examples are a disk that is temporarily unavailable, and too many open files.
    """
    while error is not None:
        if isinstance(error, OSError):
            return not isinstance(error, FileNotFoundError)
        error = error.__cause__
    return False


def _printable(name: str) -> str:
    """Return a file name as text; bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


class _TooManyEntriesError(Exception):
    """A directory has too many entries."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"it holds more than {limit:,} files and directories")


def _subdirectories(directory: Path) -> list[Path]:
    """Return the directories in a directory, sorted.

    Hidden directories are excluded, because they can be versions that an exporter has not finished.
    So is `lost+found`, which the root of a volume can contain.

    Raises:
        _TooManyEntriesError: the directory has more than `MAX_ENTRIES` entries.
    """
    found = []
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries, 1):
            if count > MAX_ENTRIES:
                raise _TooManyEntriesError(MAX_ENTRIES)
            path = directory / entry.name
            if (
                not entry.name.startswith(".")
                and entry.name != "lost+found"
                and (path.is_dir() if entry.is_symlink() else entry.is_dir())
            ):
                found.append(path)
    return sorted(found)


def _walk(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Yield all entries below a directory, in any order, without following links."""
    directories = [os.fspath(directory)]
    while directories:
        with os.scandir(directories.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)


def _versions(model: Path) -> list[Path]:
    """Return the directories whose names are digits, ascending; leading zeros are ignored."""
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
    """Return the names of ignored files and directories, which match `_LITTER`.

    Raises:
        VersionRefusedError: there is any other file or link that model.json does not list. An
            engine could load such a file, for instance as external data of a graph, although it was
            not verified.
    """
    litter = set()
    listed = manifest.files.keys() | {"model.json"}
    for count, entry in enumerate(_walk(directory), 1):
        if count > MAX_FILES:
            raise VersionRefusedError(str(_TooManyEntriesError(MAX_FILES)))
        path = PurePath(entry.path).relative_to(directory)
        ignored = next((part for part in path.parts if _LITTER.fullmatch(part)), None)
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
    """Refuse a graph that contains one of these names: it could load the file of that name."""
    if names:
        content = path.read_bytes()
        for name in sorted(names):
            if os.fsencode(name) in content:
                raise VersionRefusedError(
                    f"{path.name} refers to {_printable(name)}, which is not listed in model.json"
                )


def _verify(directory: Path, file: File) -> None:
    """Refuse a file that is missing, is a link out of the directory, or has another checksum."""
    path = directory / file.path
    if not path.resolve().is_relative_to(directory.resolve()):
        raise VersionRefusedError(f"{file.path} is a link out of the version's directory")
    if not path.is_file():
        raise VersionRefusedError(f"{file.path} is missing or is not a file")
    size = path.stat().st_size
    if size != file.size:
        raise VersionRefusedError(
            f"{file.path} has {size} bytes, but {file.size} according to model.json"
        )
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
            raise VersionRefusedError(f"{file.path} does not match its checksum in model.json")


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        text = read_text(path)
    except ValueError as error:
        raise VersionRefusedError(f"{path.name} cannot be read: {error}") from error
    # splitlines() would also split at characters that may be part of a label.
    labels = tuple(text.removesuffix("\n").split("\n"))
    lines: dict[str, int] = {}
    for line, label in enumerate(labels, 1):
        if not label.strip():
            raise VersionRefusedError(f"{path.name}: line {line} is blank")
        first = lines.setdefault(label, line)
        if first != line:
            raise VersionRefusedError(
                f"{path.name}: line {line} repeats the label {label!r} of line {first}; labels "
                "must be unique"
            )
    return labels
