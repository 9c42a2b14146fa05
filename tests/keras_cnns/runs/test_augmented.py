"""The picture of the first training images can be taken apart again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns.runs.augmented import read_augmented, write_augmented

LABELS = ("cat", "dog", "owl")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("targets", "caption"),
    [
        (np.full(30, 1), "dog"),
        (np.tile([0.0, 1.0, 0.0], (30, 1)), "dog"),
        (np.tile([0.25, 0.0, 0.75], (30, 1)), "owl 75%, cat 25%"),
        ({"main": np.full(30, 1), "aux1": np.full(30, 1)}, "dog"),
    ],
    ids=["number", "one-hot", "mixed", "several outputs"],
)
def test_images_and_captions(tmp_path: Path, channels: int, targets: Any, caption: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 5, 5, channels), np.uint8)
    write_augmented(tmp_path / "augmented.png", images, targets, LABELS)
    found = read_augmented(tmp_path / "augmented.png", 5)
    np.testing.assert_array_equal([image for image, _ in found], images[:24])
    assert {text for _, text in found} == {caption}


def test_fewer_images_than_a_row_and_no_file(tmp_path: Path) -> None:
    assert read_augmented(tmp_path / "augmented.png", 5) == []
    images = np.zeros((3, 5, 5, 1), np.uint8)
    write_augmented(tmp_path / "augmented.png", images, [0, 1, 2], LABELS)
    assert [text for _, text in read_augmented(tmp_path / "augmented.png", 5)] == list(LABELS)
    (tmp_path / "augmented.png").write_bytes(b"damaged")
    assert read_augmented(tmp_path / "augmented.png", 5) == []
