"""The built-in digits: all images, in fixed splits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_cnns.data import load_split, read_labels
from keras_cnns.data.sources.digits import assign_splits, enlarge
from keras_cnns.recipes import load_recipe

DATA = load_recipe("digits-resnet20").data
SIZES = {"train": 1253, "validation": 180, "test": 364}


def test_splits_are_stratified_by_class() -> None:
    labels = load_digits().target
    splits = assign_splits(labels)
    assert {split: int(np.sum(splits == split)) for split in SIZES} == SIZES
    for label in range(10):
        fraction = np.mean(splits[labels == label] == "test")
        assert fraction == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("split", SIZES)
def test_the_builder_gives_the_images_of_the_split(split: str) -> None:
    batches = list(load_split(DATA, split, batch_size=100).as_numpy_iterator())
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    assert images.shape == (SIZES[split], 32, 32, 1)
    assert images.dtype == np.uint8
    digits = load_digits()
    members = assign_splits(digits.target) == split
    expected = {
        enlarge(image).tobytes(): label
        for image, label in zip(digits.data[members], digits.target[members], strict=True)
    }
    assert {image.tobytes(): label for image, label in zip(images, labels, strict=True)} == expected


def test_labels_are_the_digits() -> None:
    assert read_labels(DATA) == tuple("0123456789")
