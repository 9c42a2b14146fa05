"""Finds the models and versions of a model repository, and reads only what is whole.

<repository>/<model>/<version>/model.json, model.onnx, labels.txt, ...
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from keras_cnns_serve.errors import RepositoryError, VersionRefusedError

from .manifest import File, Manifest, read_manifest
from .text_files import read_text

MAX_VERSION = 2**63 - 1  # versions are int64 to every client


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
    """The models of a repository, by name; or the one model whose directory this is.

    Raises:
        RepositoryError: the directory is missing, unreadable, or is a single version.
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
    except OSError as error:
        raise RepositoryError(
            f"{error.filename or root} cannot be read: {error.strerror}"
        ) from error
    return {_printable(model.name): model for model in models}


def find_versions(name: str, directory: Path) -> ModelDirectory:
    """The versions in a model's directory, read or not.

    Raises:
        OSError: it is missing or unreadable.
    """
    if ":" in name:
        return ModelDirectory({}, "a colon in its name ends the name in a URL")
    if directory.name != _printable(directory.name):
        return ModelDirectory({}, "the name of its directory is not UTF-8")
    versions, problem = {}, ""
    for path in _versions(directory):
        # Compared by digits: int() itself refuses numbers of thousands of digits.
        if len(path.name) > 19 or int(path.name) > MAX_VERSION:
            problem = f"the version {path.name[:30]} is larger than {MAX_VERSION}"
        else:
            versions[int(path.name)] = path
    if not versions and not problem:
        problem = f"it has no version, such as {name}/1/model.json"
    return ModelDirectory(versions, problem)


def read_version(name: str, version: int, directory: Path) -> ModelVersion:
    """Reads a version, and every file of it once, to compare it with its checksum.

    Raises:
        VersionRefusedError: it is not what was published, or cannot be read.
    """
    try:
        return _read_version(name, version, directory)
    except OSError as error:
        raise VersionRefusedError(
            f"{error.filename or directory} cannot be read: {error.strerror}"
        ) from error


def fingerprint(directory: Path) -> frozenset[tuple[str, int, int, int]]:
    """The names, sizes and times of a version's files: another one says that they changed."""
    found = set()
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*folders, *files)):
            with contextlib.suppress(OSError):
                state = path.lstat()
                # The last one tells of a permission that was given.
                found.add((str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return frozenset(found)


def may_pass(error: BaseException | None) -> bool:
    """Whether a version that was refused for this may be taken with the same files.

    So it is with a disk that is gone for a moment, or where files are too many to be opened.
    """
    while error is not None:
        if isinstance(error, OSError):
            return not isinstance(error, FileNotFoundError)
        error = error.__cause__
    return False


def _printable(name: str) -> str:
    """A name of the file system as text; bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _subdirectories(directory: Path) -> list[Path]:
    """Its directories, sorted; hidden ones are an exporter's unfinished work or a tool's own."""
    return sorted(
        path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _versions(model: Path) -> list[Path]:
    """The directories named by a positive integer without leading zeros, ascending."""
    found = [
        path
        for path in _subdirectories(model)
        if path.name.isascii() and path.name.isdigit() and path.name[0] != "0"
    ]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _read_version(name: str, version: int, directory: Path) -> ModelVersion:
    manifest = read_manifest(directory / "model.json")
    for path in directory.rglob("*"):
        # An engine that opened a pipe would wait for ever.
        if path.exists() and not path.is_file() and not path.is_dir():
            name = _printable(str(path.relative_to(directory)))
            raise VersionRefusedError(f"{name} is not a file")
    for file in manifest.files.values():
        _verify(directory, file)
    labels = _read_labels(directory / manifest.labels)
    if len(labels) != manifest.classes:
        raise VersionRefusedError(
            f"{manifest.labels} has {len(labels)} labels for {manifest.classes} probabilities"
        )
    return ModelVersion(name, version, directory, manifest, labels)


def _verify(directory: Path, file: File) -> None:
    """Refuses a file that is missing, leads elsewhere, or is not what was published."""
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
