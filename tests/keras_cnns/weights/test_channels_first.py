"""Files are read whatever Keras' image data format is: our models are always channels last."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from random_weights import random_images

from keras_cnns.models import build
from keras_cnns.weights import load


@pytest.fixture(autouse=True)
def _restore_data_format() -> Iterator[None]:
    before = keras.config.image_data_format()
    yield
    keras.config.set_image_data_format(before)


@pytest.mark.parametrize("name", ["resnet20", "googlenet_tv"])
def test_a_channels_last_file_is_loaded_under_channels_first(name: str, tmp_path: Path) -> None:
    shape = (32, 32, 3)
    model = build(name, input_shape=shape, classes=3, aux_heads=True)
    images = random_images((2, *shape))
    expected = model(images)
    model.save(tmp_path / "net.keras")
    keras.config.set_image_data_format("channels_first")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    found = loaded(images)
    for head in expected:
        np.testing.assert_array_equal(found[head], expected[head])
    assert not load(loaded, tmp_path / "net.keras").new_heads
    with pytest.raises(ValueError, match="need channels-last images"):
        build(name, input_shape=shape, weights=tmp_path / "net.keras")
