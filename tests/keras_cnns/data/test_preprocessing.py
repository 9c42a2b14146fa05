"""The preprocessing in TensorFlow equals Pillow's."""

import numpy as np
import pytest
from PIL import Image

from keras_cnns.data import preprocess
from keras_cnns.recipes import Preprocessing, load_recipe

BICUBIC = Image.Resampling.BICUBIC


def photograph(height: int, width: int, channels: int) -> np.ndarray:
    """Return an artificial photograph: smooth colours with some noise."""
    generator = np.random.default_rng(height * width)
    coarse = generator.uniform(0, 255, (6, 6, channels)).astype(np.uint8)
    planes = [
        np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), BICUBIC))
        for c in range(channels)
    ]
    noise = generator.normal(0, 6, (height, width, channels))
    return np.clip(np.stack(planes, axis=-1) + noise, 0, 255).astype(np.uint8)


def pillow(image: np.ndarray, shorter: int, crop: int) -> np.ndarray:
    height, width, channels = image.shape
    scale = shorter / min(height, width)
    size = round(width * scale), round(height * scale)
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    planes = [
        Image.fromarray(image[..., c])
        .resize(size, Image.Resampling.BILINEAR)
        .crop((left, top, left + crop, top + crop))
        for c in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(375, 500), (501, 333), (97, 64), (256, 256), (40, 41)])
def test_it_equals_pillow_within_one_level(size: tuple[int, int], channels: int) -> None:
    image = photograph(*size, channels)
    settings = Preprocessing(resize_shorter=64, crop=56, channels=channels)
    difference = np.abs(
        preprocess(image, settings).numpy().astype(int) - pillow(image, 64, 56).astype(int)
    )
    assert np.mean(difference <= 1) >= 0.999


def test_channels_are_converted() -> None:
    grey, colour = photograph(8, 8, 1), photograph(8, 8, 3)
    assert preprocess(colour, Preprocessing(8, 8, channels=1)).shape == (8, 8, 1)
    as_colour = preprocess(grey, Preprocessing(8, 8, channels=3))
    np.testing.assert_array_equal(as_colour, np.repeat(grey, 3, axis=-1))


def test_a_recipes_preprocessing_has_the_keys_of_model_json() -> None:
    assert load_recipe("imagenet-resnet50").data.preprocessing().to_dict() == {
        "resize_shorter": 256,
        "crop": 224,
        "interpolation": "bilinear",
        "antialias": True,
        "channels": 3,
    }
