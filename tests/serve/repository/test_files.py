import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from keras_cnns_serve.errors import RepositoryError, VersionRefusedError
from keras_cnns_serve.repository.files import (
    ModelVersion,
    find_models,
    find_versions,
    fingerprint,
    read_version,
)
from tests.serve.conftest import LABELS, publish, write_version


@dataclass(frozen=True)
class Repository:
    """What a directory holds: the good versions, and why the others are not."""

    versions: list[ModelVersion]
    refusals: list[str]


def open_repository(root: Path) -> Repository:
    repository = Repository([], [])
    for name, directory in find_models(root).items():
        found = find_versions(name, directory)
        if found.problem:
            repository.refusals.append(f"{name} refused: {found.problem}")
        for version, path in found.versions.items():
            try:
                repository.versions.append(read_version(name, version, path))
            except VersionRefusedError as error:
                repository.refusals.append(f"{name}/{version} refused: {error}")
    return repository


def test_finds_models_and_versions_in_order_of_their_numbers(tmp_path: Path) -> None:
    for place in ("b/10", "b/9", "a/1"):
        write_version(tmp_path / place)
    (tmp_path / "b" / ".partial-11").mkdir()
    (tmp_path / "b" / "007").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("not a model")
    repository = open_repository(tmp_path)
    found = [(version.name, version.version) for version in repository.versions]
    assert found == [("a", 1), ("b", 9), ("b", 10)]
    assert repository.versions[0].labels == tuple(LABELS)
    assert repository.refusals == []


def test_a_model_is_served_under_its_directorys_name(tmp_path: Path) -> None:
    write_version(tmp_path / "old" / "1")
    (tmp_path / "old").rename(tmp_path / "new")
    assert [version.name for version in open_repository(tmp_path).versions] == ["new"]


def test_takes_the_directory_of_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path / "digits" / "1")
    monkeypatch.chdir(tmp_path / "digits")
    for root in (tmp_path / "digits", Path()):
        assert [version.name for version in open_repository(root).versions] == ["digits"]


def test_files_that_are_not_listed_do_no_harm(tmp_path: Path) -> None:
    directory = write_version(tmp_path / "grey" / "1")
    (directory / "notes.txt").write_text("mine")
    assert len(open_repository(tmp_path).versions) == 1


def _flip_a_byte(directory: Path) -> None:
    content = bytearray((directory / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "model.onnx").write_bytes(content)


def _lead_out(directory: Path) -> None:
    labels = directory / "labels.txt"
    labels.rename(directory.parent / "outside.txt")
    labels.symlink_to(directory.parent / "outside.txt")


def _fewer_labels(directory: Path) -> None:
    parent = directory.parent
    model = (directory / "model.onnx").read_bytes()
    outputs = [{"name": "probabilities", "dtype": "float32", "shape": [None, 11]}]
    shutil.rmtree(directory)
    write_version(parent / directory.name, model, outputs=outputs)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_flip_a_byte, "model.onnx does not match its checksum in model.json"),
        (lambda d: (d / "model.onnx").unlink(), "model.onnx is missing, or not a file"),
        (lambda d: (d / "labels.txt").write_text("one"), "labels.txt has 3 bytes, and 70 in"),
        (lambda d: (d / "model.json").unlink(), "model.json cannot be read: No such file"),
        (_lead_out, "labels.txt is a link out of the version's directory"),
        (_fewer_labels, "labels.txt has 10 labels for 11 probabilities"),
    ],
)
def test_a_spoilt_version_is_refused_by_name_and_the_others_are_served(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    write_version(tmp_path / "digits" / "1")
    spoil(write_version(tmp_path / "digits" / "2"))
    repository = open_repository(tmp_path)
    assert [version.version for version in repository.versions] == [1]
    assert [line.split(": ")[0] for line in repository.refusals] == ["digits/2 refused"]
    assert reason in repository.refusals[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("\n".join(LABELS).encode("utf-8-sig"), ""),
        ("".join(f"{label}\r\n" for label in LABELS).encode("utf-8-sig"), ""),
        ("\n".join(LABELS).encode("utf-16"), "labels.txt cannot be read: it is in UTF-16; save it"),
        ("\n".join(["", *LABELS[1:]]).encode(), "labels.txt: line 1 is blank"),
        (
            "\n".join([*LABELS[:-1], LABELS[0]]).encode(),
            f"labels.txt: line {len(LABELS)} repeats the label {LABELS[0]!r} of line 1; each class "
            "needs its own",
        ),
    ],
)
def test_labels_may_come_from_any_editor(tmp_path: Path, content: bytes, problem: str) -> None:
    publish(tmp_path / "digits" / "1", {"labels.txt": content})
    repository = open_repository(tmp_path)
    if problem:
        assert problem in repository.refusals[0]
    else:
        assert repository.versions[0].labels == tuple(LABELS)


@pytest.mark.parametrize("name", ["model.json", "labels.txt", "model.onnx", "unlisted.data"])
def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path, name: str) -> None:
    directory = write_version(tmp_path / "grey" / "1")
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    assert "not a file" in open_repository(tmp_path).refusals[0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "empty refused: it has no version, such as empty/1/model.json"),
        ("a:b/1", "a:b refused: a colon in its name ends the name in a URL"),
        (f"big/{2**63}", f"big refused: the version {2**63} is larger than {2**63 - 1}"),
        (f"big/{'9' * 200}", "big refused: the version 9999"),
    ],
)
def test_a_directory_that_cannot_be_addressed_is_refused(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / name).mkdir(parents=True)
    assert open_repository(tmp_path).refusals[0].startswith(reason)


def test_a_name_that_is_not_utf_8_is_refused_in_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff")).mkdir()
    (refusal,) = open_repository(tmp_path).refusals
    assert refusal == r"bad\udcff refused: the name of its directory is not UTF-8"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "absent does not exist; give the directory that holds the models"),
        ("grey/1/model.json", "is not a directory"),
        ("grey/1", "is one version of a model; give its model"),
    ],
)
def test_what_is_no_repository_says_what_would_be(tmp_path: Path, path: str, message: str) -> None:
    write_version(tmp_path / "grey" / "1")
    with pytest.raises(RepositoryError, match=message):
        open_repository(tmp_path / path)


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    """The fixture writes what the contract says, not what this reader happens to take."""
    manifest = json.loads((write_version(tmp_path / "grey" / "1") / "model.json").read_text())
    assert set(manifest) >= {"format", "name", "inputs", "outputs", "preprocessing", "files"}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / "labels.txt").write_text("x"),
        lambda d: (d / "new").mkdir(),
        lambda d: (d / "model.onnx").unlink(),
        lambda d: os.utime(d / "model.json", ns=(1, 1)),
        lambda d: (d / "model.json").chmod(0o600),
    ],
)
def test_a_fingerprint_tells_of_every_change(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    directory = write_version(tmp_path / "grey" / "1")
    before = fingerprint(directory)
    assert fingerprint(directory) == before
    change(directory)
    assert fingerprint(directory) != before


def test_any_error_of_the_disk_is_told_as_the_repositorys() -> None:
    with pytest.raises(RepositoryError, match="cannot be read: File name too long"):
        find_models(Path("a" * 300))
