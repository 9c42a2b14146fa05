"""Any TFDS name through one function."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_cnns.data import load_split, read_labels
from keras_cnns.recipes import load_recipe

DIGITS = load_recipe("digits-resnet20").data


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 24)])
def test_a_tfds_name_gives_batches_of_the_recipes_shape(
    channels: Literal[1, 3], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    examples = {"image": np.zeros((7, 32, 32, 3), np.uint8), "label": np.arange(7)}
    name = f"colours_{size}"  # tensorflow-datasets remembers where it has read a name
    tfds.disable_progress_bar()
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(examples)},
        data_dir=tmp_path,
    )
    tfds.enable_progress_bar()
    monkeypatch.setattr(tfds, "builder", {name: builder}.__getitem__)
    config = replace(
        DIGITS,
        name=name,
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        image_size=size,
    )
    images, labels = next(iter(load_split(config, "train[:5]", batch_size=4)))
    assert len(read_labels(config)) == 10
    assert images.shape == (4, size, size, channels)
    assert images.dtype == "uint8"
    assert labels.dtype == "int64"


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"name": "digitz"}, "train", "there is no data set 'digitz'.* Similar names: digits"),
        ({}, "dev", "no split 'dev', .* the splits are train"),
        ({"name": "imdb_reviews"}, "train", "has no features 'image' and 'label'"),
    ],
)
def test_wrong_names_say_what_is_there(changes: dict[str, Any], split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_split(replace(DIGITS, **changes), split, batch_size=1)
