"""Training, the SavedModel and the server read the same pixels from an image."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnns import recipes
from keras_cnns.data import preprocess, read_image
from keras_cnns_export.contract import Preprocessing as ExportPreprocessing
from keras_cnns_export.image_bytes import decode_batch
from keras_cnns_serve.images.decoding import read_image as read_as_server
from keras_cnns_serve.repository.manifest import Preprocessing

SIZES = [(375, 500), (501, 333), (97, 64), (256, 256), (41, 40), (640, 211)]
FORMATS: dict[str, dict[str, Any]] = {  # mode of the image -> how it is stored
    "RGB": {"format": "JPEG", "quality": 90},
    "L": {"format": "JPEG", "quality": 90},
    "CMYK": {"format": "JPEG", "quality": 90},
    "RGBA": {"format": "PNG"},
    "P": {"format": "PNG"},
    "LA": {"format": "PNG"},
}


def picture(size: tuple[int, int], mode: str) -> Image.Image:
    """Return an artificial photo: smooth colours with some noise."""
    generator = np.random.default_rng(size[0] * size[1])
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    noisy = smooth + generator.normal(0, 6, (*size, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_training_and_server_agree_to_one_level(
    size: tuple[int, int], mode: str, channels: int, tmp_path: Path
) -> None:
    encoded = io.BytesIO()
    picture(size, mode).save(encoded, **FORMATS[mode])
    path = tmp_path / "image"
    path.write_bytes(encoded.getvalue())

    settings = recipes.Preprocessing(resize_shorter=64, crop=56, channels=channels)
    trained = preprocess(read_image(path, channels), settings)
    served = read_as_server(encoded.getvalue(), Preprocessing(64, (56, 56), channels))
    difference = np.abs(trained.numpy().astype(int) - served.astype(int))
    assert np.mean(difference <= 1) >= 0.999


@pytest.mark.parametrize("size", [(192, 195), (195, 192), (64, 97), (320, 325), (448, 449)])
def test_a_side_that_falls_on_a_half_is_rounded_alike(size: tuple[int, int]) -> None:
    """195 * 224 / 192 = 227.5, for which float32 arithmetic may give a little more or less."""
    encoded = io.BytesIO()
    picture(size, "RGB").save(encoded, format="PNG")
    content = encoded.getvalue()
    settings = ExportPreprocessing(resize_shorter=224, crop=224)
    pixels = tf.io.decode_png(content, channels=3)
    trained = preprocess(pixels, recipes.Preprocessing(224, 224)).numpy()
    saved = decode_batch(tf.constant([content]), settings).numpy()[0]
    np.testing.assert_array_equal(saved, trained)
    served = read_as_server(content, Preprocessing(224, (224, 224), 3))
    assert np.mean(np.abs(trained.astype(int) - served.astype(int)) <= 1) >= 0.999
