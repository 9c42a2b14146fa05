import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from keras_cnns_serve.errors import RepositoryError, VersionRefusedError
from keras_cnns_serve.repository import files
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
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("not a model")
    repository = open_repository(tmp_path)
    found = [(version.name, version.version) for version in repository.versions]
    assert found == [("a", 1), ("b", 9), ("b", 10)]
    assert repository.versions[0].labels == tuple(LABELS)
    assert repository.refusals == []


def test_leading_zeros_count_for_nothing(tmp_path: Path) -> None:
    """As TensorFlow Serving reads them; a version that is there twice is reported."""
    write_version(tmp_path / "a" / "007")
    write_version(tmp_path / "a" / "0010")
    for name in ("7", "000"):
        (tmp_path / "b" / name).mkdir(parents=True)
    write_version(tmp_path / "b" / "07")
    repository = open_repository(tmp_path)
    found = [(version.name, version.version) for version in repository.versions]
    assert found == [("a", 7), ("a", 10), ("b", 7)]
    problem = find_versions("b", tmp_path / "b").problem
    assert problem == "its directories 07 and 7 are the same version"
    (tmp_path / "b" / "7").rmdir()
    assert "its directory 000 is not a version" in find_versions("b", tmp_path / "b").problem


def test_a_model_is_served_under_its_directorys_name(tmp_path: Path) -> None:
    write_version(tmp_path / "old" / "1")
    (tmp_path / "old").rename(tmp_path / "new")
    assert [version.name for version in open_repository(tmp_path).versions] == ["new"]


def test_takes_the_directory_of_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path / "digits" / "1")
    monkeypatch.chdir(tmp_path / "digits")
    for root in (tmp_path / "digits", Path()):
        assert [version.name for version in open_repository(root).versions] == ["digits"]


def _link(directory: Path, name: str, target: str) -> None:
    (directory / name).symlink_to(target)


@pytest.mark.parametrize(
    ("add", "name"),
    [
        (lambda d: (d / "weights.bin").write_bytes(b"1"), "weights.bin"),
        (lambda d: (d / ".hidden").write_bytes(b"1"), ".hidden"),
        (lambda d: publish_below(d / "variables" / "deep"), "variables/deep/x"),
        (lambda d: os.mkfifo(d / "pipe"), "pipe"),
        (lambda d: _link(d, "file", "model.onnx"), "file"),
        (lambda d: _link(d, "nowhere", "absent"), "nowhere"),
        (lambda d: _link(d, "loop", "loop"), "loop"),
        (lambda d: _link(d, "here", "."), "here"),
        (lambda d: _link(d, "above", "../.."), "above"),
        (lambda d: (d / os.fsdecode(b"\xff")).touch(), r"\udcff"),
    ],
)
def test_what_model_json_does_not_list_is_refused_by_name(
    tmp_path: Path, add: Callable[[Path], object], name: str
) -> None:
    add(write_version(tmp_path / "grey" / "1"))
    assert open_repository(tmp_path).refusals == [
        f"grey/1 refused: {name} is not listed in model.json; remove it, or export the version "
        "again"
    ]


def publish_below(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "x").touch()


def test_litter_and_empty_directories_are_ignored(tmp_path: Path) -> None:
    directory = write_version(tmp_path / "grey" / "1")
    for name in (".DS_Store", "._model.onnx", "Thumbs.db", ".nfs0001", "labels.txt~"):
        (directory / name).write_bytes(b"1")
    (directory / "assets").mkdir()
    assert open_repository(tmp_path).refusals == []


def test_a_version_may_be_a_mounted_config_map(tmp_path: Path) -> None:
    """Kubernetes mounts links to links to files."""
    directory = write_version(tmp_path / "grey" / "1")
    hidden = directory / "..2026_01_01"
    hidden.mkdir()
    (directory / "..data").symlink_to(hidden.name)
    for name in ("model.json", "model.onnx", "labels.txt"):
        (directory / name).rename(hidden / name)
        (directory / name).symlink_to(f"..data/{name}")
    assert open_repository(tmp_path).refusals == []


def test_litter_that_a_graph_would_load_is_refused(tmp_path: Path) -> None:
    directory = write_version(tmp_path / "grey" / "1", b"its weights lie in ./._weights")
    (directory / "._weights").write_bytes(b"1")
    assert open_repository(tmp_path).refusals == [
        "grey/1 refused: model.onnx refers to ._weights, which is not listed in model.json"
    ]


@pytest.mark.parametrize("place", ["", "grey", "grey/1"])
def test_a_directory_of_very_many_entries_is_refused(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(tmp_path / "grey" / "1")
    monkeypatch.setattr(files, "MAX_ENTRIES", 50)
    monkeypatch.setattr(files, "MAX_FILES", 50)
    (tmp_path / place / "assets").mkdir()
    for number in range(60):
        (tmp_path / place / f"{'assets/' * (place == 'grey/1')}{number}x").mkdir()
    if place:
        (refusal,) = open_repository(tmp_path).refusals
        assert refusal == f"{place} refused: it holds more than 50 files and directories"
        assert len(fingerprint(tmp_path / place)) == 50
    else:
        with pytest.raises(
            RepositoryError, match=r"more than 50 .*; give a directory that only holds"
        ):
            open_repository(tmp_path)


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
        (lambda d: (d / "model.onnx").unlink(), "model.onnx is missing or is not a file"),
        (
            lambda d: (d / "labels.txt").write_text("one"),
            "labels.txt has 3 bytes, but 70 according to model.json",
        ),
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
            f"labels.txt: line {len(LABELS)} repeats the label {LABELS[0]!r} of line 1; labels "
            "must be unique",
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


@pytest.mark.parametrize("name", ["model.json", "labels.txt", "model.onnx"])
def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path, name: str) -> None:
    directory = write_version(tmp_path / "grey" / "1")
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    assert "not a file" in open_repository(tmp_path).refusals[0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "empty refused: it has no version, such as empty/1/model.json"),
        ("a:b/1", "a:b refused: its name has a colon"),
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
        ("absent", "absent does not exist; give the directory of the models"),
        ("grey/1/model.json", "is not a directory"),
        ("grey/1", "is a version of a model; give the directory of the model"),
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
