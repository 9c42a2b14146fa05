"""A training's state in one file, with its checksum."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns.training.checkpoint import (
    CheckpointError,
    checkpoint_path,
    is_plain,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)

BFLOAT16 = pytest.importorskip("ml_dtypes").bfloat16
ARRAYS: list[np.ndarray[Any, Any]] = [
    np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not in one piece
    np.array(7, np.int64),
    np.array([[1, 2**32 - 1]], np.uint32),
    np.array([True, False]),
    np.zeros((0, 3), np.float64),
    np.array([1.5, -2.0]).astype(BFLOAT16),
]


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "numbers": [1, -2.5, math.inf, True, None, 0.1 + 0.2],
        "nested": {"tuple": (1, (2, [3])), "dict": {"array": 1}},
        "text": "épochs",
        3: {(1, 2): "keys that JSON has not"},
        "random": random.Random(0).getstate(),
    }
    everything = {**state, "arrays": ARRAYS}
    assert is_plain(everything)
    path = tmp_path / "a.checkpoint"
    write_checkpoint(path, everything)
    read = read_checkpoint(path)
    for written, array in zip(ARRAYS, read.pop("arrays"), strict=True):
        assert (array.dtype, array.shape) == (written.dtype, written.shape)
        np.testing.assert_array_equal(array, written)
    assert read == state
    assert [each.name for each in tmp_path.iterdir()] == ["a.checkpoint"]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for value in (print, object(), [Path()], {"a": {1, 2}}, np.array(["text"])):
        assert not is_plain(value)
    with pytest.raises(TypeError, match="cannot hold a set"):
        write_checkpoint(tmp_path / "a.checkpoint", {"a": {1, 2}})
    assert not list(tmp_path.iterdir())


def test_every_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.checkpoint"
    write_checkpoint(path, {"a": np.zeros(8)})
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :] for i in range(len(whole))]
    cut = [whole[:length] for length in range(0, len(whole), 7)]
    for content in [*flipped, *cut, whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.checkpoint"):
            read_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_checkpoint(tmp_path / "absent")


def test_checkpoints_are_listed_from_the_latest_on(tmp_path: Path) -> None:
    for step in (5, 100_000_000, 20):
        checkpoint_path(tmp_path, step).touch()
    (tmp_path / "step-00000030.partial.checkpoint").touch()
    (tmp_path / "other.checkpoint").touch()
    steps = [path.stem for path in list_checkpoints(tmp_path)]
    assert steps == ["step-100000000", "step-00000020", "step-00000005"]
    assert list_checkpoints(tmp_path / "absent") == []
