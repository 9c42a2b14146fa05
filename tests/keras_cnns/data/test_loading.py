"""Any TFDS name through one function."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_cnns.data import load_split, loading, read_labels
from keras_cnns.recipes import load_recipe

DIGITS = load_recipe("digits-resnet20").data
CIFAR = replace(DIGITS, name="cifar10", channels=3, mean=(125.0,) * 3, std=(64.0,) * 3)


@pytest.fixture
def _no_cached_builders() -> None:
    loading._builder.cache_clear()


@pytest.mark.usefixtures("_no_cached_builders")
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 24)])
def test_a_tfds_name_gives_batches_of_the_recipes_shape(channels: Literal[1, 3], size: int) -> None:
    config = replace(
        CIFAR,
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        image_size=size,
    )
    with tfds.testing.mock_data(num_examples=7):
        images, labels = next(iter(load_split(config, "train[:5]", batch_size=4)))
        assert len(read_labels(config)) == 10
    assert images.shape == (4, size, size, channels)
    assert images.dtype == "uint8"
    assert labels.dtype == "int64"


def test_training_batches_are_shuffled_augmented_and_repeatable() -> None:
    def epochs(seed: int) -> list[np.ndarray]:
        dataset = load_split(DIGITS, "train[:64]", batch_size=64, training=True, seed=seed)
        return [next(dataset.as_numpy_iterator())[0] for dataset in [dataset, dataset]]

    plain = next(load_split(DIGITS, "train[:64]", batch_size=64).as_numpy_iterator())[0]
    first, again, other = epochs(1), epochs(1), epochs(2)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], plain)
    assert sorted(image.sum() for image in plain) != sorted(image.sum() for image in first[0])


def test_each_epoch_is_shuffled_anew() -> None:
    dataset = load_split(DIGITS, "train[:64]", batch_size=64, training=True)
    one, two = ([labels for _, labels in dataset.as_numpy_iterator()] for _ in range(2))
    assert sorted(one[0]) == sorted(two[0])
    assert list(one[0]) != list(two[0])


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"name": "digitz"}, "train", "there is no data set 'digitz'.* Near names: digits"),
        ({}, "dev", "no split 'dev', .* it has .*train"),
        ({"name": "imdb_reviews"}, "train", "has no features 'image' and 'label'"),
    ],
)
def test_wrong_names_say_what_is_there(changes: dict[str, Any], split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_split(replace(DIGITS, **changes), split, batch_size=1)
