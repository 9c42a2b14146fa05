"""Any TFDS name through one function."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import tensorflow_datasets as tfds

from keras_cnns.data import load_split, read_labels, tfds_samples
from keras_cnns.recipes import load_recipe

DIGITS = load_recipe("digits-resnet20").data
CIFAR = replace(DIGITS, name="cifar10", channels=3, mean=(125.0,) * 3, std=(64.0,) * 3)


@pytest.fixture
def _no_cached_builders() -> None:
    tfds_samples.open_builder.cache_clear()


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


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"name": "digitz"}, "train", "there is no data set 'digitz'.* Near names: digits"),
        ({}, "dev", "no split 'dev', .* there is .*train"),
        ({"name": "imdb_reviews"}, "train", "has no features 'image' and 'label'"),
    ],
)
def test_wrong_names_say_what_is_there(changes: dict[str, Any], split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_split(replace(DIGITS, **changes), split, batch_size=1)
