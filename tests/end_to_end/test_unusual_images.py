"""Unusual and damaged images: every reader has the same pixels, or refuses the same files."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf
from unusual_images import SIDE, unusual_images

from keras_cnns.data import open_split, read_image
from keras_cnns.recipes import DataConfig
from keras_cnns_export.contract import Preprocessing as ExportPreprocessing
from keras_cnns_export.image_bytes import decode_batch
from keras_cnns_serve.errors import ServeError
from keras_cnns_serve.images.decoding import read_image as read_as_server
from keras_cnns_serve.repository.manifest import Preprocessing

IMAGES = unusual_images()
REFUSED = {
    "PNG with a wrong checksum of text",
    "PNG cut short",
    "JPEG without its end",
    "JPEG of 12 bits",
    "JPEG cut short",
    "WEBP cut short",
    "BMP cut short",
    "GIF cut short",
    "TIFF",
    "text",
}
# The JPEG and PNG files that only the SavedModel's signature refuses.
REFUSED_BY_EXPORT = {
    "JPEG CMYK without Adobe's marker",
    "JPEG turned by XMP",
    "PNG turned by XMP",
    "PNG without IEND",
    "PNG with half an IEND",
    "PNG with a wrong checksum of pixels",
}
Pixels = dict[str, np.ndarray]  # of the images that a reader accepts, by name

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as the readers themselves do


@pytest.fixture(scope="module")
def by_server() -> Pixels:
    preprocessing = Preprocessing(SIDE, (SIDE, SIDE), 3)
    return accepted(lambda content: read_as_server(content, preprocessing), ServeError)


def accepted(read: Callable[[bytes], np.ndarray], error: type[Exception]) -> Pixels:
    found = {}
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        for name, content in IMAGES.items():
            try:
                found[name] = read(content)
            except error:
                continue
    return found


def assert_equal(found: Pixels, expected: Pixels, tolerance: int = 0) -> None:
    for name, pixels in found.items():
        difference = np.abs(pixels.astype(int) - expected[name])
        assert difference.max() <= tolerance, name


def test_the_server_refuses_only_damaged_files(by_server: Pixels) -> None:
    assert len(IMAGES) >= 60
    assert len(REFUSED) <= 10
    assert set(IMAGES) - set(by_server) == REFUSED


@pytest.mark.parametrize("channels", [1, 3])
def test_predict_reads_what_the_server_reads(channels: int, tmp_path: Path) -> None:
    def read(content: bytes) -> np.ndarray:
        (tmp_path / "image").write_bytes(content)
        return read_image(tmp_path / "image", channels)

    preprocessing = Preprocessing(SIDE, (SIDE, SIDE), channels)
    served = accepted(lambda content: read_as_server(content, preprocessing), ServeError)
    found = accepted(read, ValueError)
    assert set(found) == set(served)
    assert_equal(found, served)


@pytest.mark.parametrize("channels", [1, 3])
def test_training_reads_what_the_server_reads(
    channels: Literal[1, 3], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorFlow's greys may differ from Pillow's by one level."""
    names = list(IMAGES)
    for index, content in enumerate(IMAGES.values()):
        folder = tmp_path / ("first" if index % 2 else "second")
        folder.mkdir(exist_ok=True)
        (folder / f"{index:03}.jpg").write_bytes(content)
    grey = (1.0,) * channels
    config = DataConfig(
        "folder", SIDE, SIDE, channels, grey, grey, path=str(tmp_path), skip_bad=True,
        validation_split="train", test_split="train",
    )  # fmt: skip
    images = np.concatenate(
        [
            batch
            for batch, _ in open_split(config, "train", batch_size=16).epoch(0).as_numpy_iterator()
        ]
    )
    refused = {int(line.split(".jpg")[0][-3:]) for line in capsys.readouterr().err.splitlines()}
    assert {names[index] for index in refused} == REFUSED
    order = sorted(tmp_path.rglob("*.jpg"))
    read = [names[int(path.stem)] for path in order if int(path.stem) not in refused]
    found = dict(zip(read, images, strict=True))
    preprocessing = Preprocessing(SIDE, (SIDE, SIDE), channels)
    served = accepted(lambda content: read_as_server(content, preprocessing), ServeError)
    assert_equal(found, served, tolerance=1 if channels == 1 else 0)


def test_the_saved_models_signature_has_the_same_pixels_or_fails(by_server: Pixels) -> None:
    settings = ExportPreprocessing(resize_shorter=SIDE, crop=SIDE)
    decode = tf.function(
        partial(decode_batch, preprocessing=settings),
        input_signature=[tf.TensorSpec((None,), tf.string)],
    )
    found = accepted(
        lambda content: decode(tf.constant([content])).numpy()[0], tf.errors.InvalidArgumentError
    )
    # A checksum of text is not verified: the pixels are those of the undamaged file.
    text = found.pop("PNG with a wrong checksum of text")
    np.testing.assert_array_equal(text, by_server["PNG colour type 2, 8 bits"])
    assert_equal(found, by_server)
    known = {name for name in IMAGES if name.startswith(("JPEG", "PNG"))}
    assert known - set(found) == (REFUSED & known) | REFUSED_BY_EXPORT
    assert set(found) <= known
