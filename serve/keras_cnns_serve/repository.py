"""Finds the models and versions of a model repository, and lets in only what is whole.

<repository>/<model>/<version>/model.json, model.onnx, labels.txt, ...
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .errors import RepositoryError, VersionRefusedError
from .manifest import File, Manifest, read_manifest

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
class Refusal:
    """Why a version, or a whole model (`version` is None), is not served."""

    name: str
    version: int | None
    reason: str

    def __str__(self) -> str:
        """One line for a log: `digits/2 refused: ...`."""
        place = self.name if self.version is None else f"{self.name}/{self.version}"
        return f"{place} refused: {self.reason}"


@dataclass(frozen=True)
class Repository:
    """What a directory holds: the good versions, and the others with their reasons."""

    root: Path
    versions: tuple[ModelVersion, ...]  # by name, then by version, ascending
    refusals: tuple[Refusal, ...]


def open_repository(root: Path) -> Repository:
    """Reads a directory of models, or the directory of one model.

    Every file of every version is read, once, to compare it with its checksum.

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
        versions: list[ModelVersion] = []
        refusals: list[Refusal] = []
        for model in models:
            _read_model(model, versions, refusals)
    except PermissionError as error:
        raise RepositoryError(f"{error.filename} cannot be read: {error.strerror}") from error
    return Repository(root, tuple(versions), tuple(refusals))


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


def _read_model(model: Path, versions: list[ModelVersion], refusals: list[Refusal]) -> None:
    if ":" in model.name:
        refusals.append(Refusal(model.name, None, "a colon in its name ends the name in a URL"))
        return
    directories = _versions(model)
    if not directories:
        reason = f"it has no version, such as {model.name}/1/model.json"
        refusals.append(Refusal(model.name, None, reason))
    for directory in directories:
        # Compared by digits: int() itself refuses numbers of thousands of digits.
        if len(directory.name) > 19 or int(directory.name) > MAX_VERSION:
            reason = f"the version {directory.name[:30]} is larger than {MAX_VERSION}"
            refusals.append(Refusal(model.name, None, reason))
            continue
        version = int(directory.name)
        try:
            versions.append(_read_version(model.name, version, directory))
        except VersionRefusedError as refused:
            refusals.append(Refusal(model.name, version, str(refused)))
        except OSError as error:
            reason = f"{error.filename or directory} cannot be read: {error.strerror}"
            refusals.append(Refusal(model.name, version, reason))


def _read_version(name: str, version: int, directory: Path) -> ModelVersion:
    manifest = read_manifest(directory / "model.json")
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
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise VersionRefusedError(f"{path.name} is not UTF-8: {error}") from error
    # Not splitlines(): it also splits at characters that may stand within a label.
    return tuple(text.removesuffix("\n").split("\n"))
