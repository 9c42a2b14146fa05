"""A TFDS set without a validation split: which images are in it, and how often they are read."""

import os
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_cnns.data import Split, Splits, open_split
from keras_cnns.data.decoding import decode
from keras_cnns.data.sources import base, cache, tfds_files
from keras_cnns.data.sources import tfds as tfds_source
from keras_cnns.data.sources.by_content import split_by_content
from keras_cnns.recipes import AugmentationConfig, load_recipe

FORMATS = ("tfrecord", "array_record")
COUNTS = {"train": 150, "test": 20}
COLOURS = replace(
    load_recipe("digits-resnet20").data,
    name="colours",
    image_size=8,
    resize_shorter=10,
    channels=3,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
)
BYTES = 8 * 8 * 3  # of an image's pixels at the network's size


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    """Images uint8 [N, 14, 12, 3], all different."""
    random = np.random.default_rng(0)
    return {name: random.integers(0, 256, (n, 14, 12, 3), np.uint8) for name, n in COUNTS.items()}


@pytest.fixture(scope="module")
def builders(
    tmp_path_factory: pytest.TempPathFactory, images: dict[str, np.ndarray]
) -> dict[str, Any]:
    """A data set of training and test images in files of each format."""
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    tfds.disable_progress_bar()
    found = {
        file_format: tfds.dataset_builders.store_as_tfds_dataset(
            "colours",
            version="1.0.0",
            features=tfds.features.FeaturesDict(features),
            split_datasets={
                name: tf.data.Dataset.from_tensor_slices(
                    {"image": each, "label": np.arange(len(each)) % 10}
                )
                for name, each in images.items()
            },
            data_dir=tmp_path_factory.mktemp(file_format),
            file_format=file_format,
            disable_shuffling=True,
        )
        for file_format in FORMATS
    }
    tfds.enable_progress_bar()
    return found


@pytest.fixture(params=FORMATS)
def builder(
    builders: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Any:
    builder = builders[request.param]
    monkeypatch.setattr(tfds_files, "open_builder", lambda name: builder)
    return builder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each encoded image was decoded."""
    found: Counter[bytes] = Counter()

    def note(content: bytes) -> bytes:
        found[content] += 1
        return content

    def counted(content: tf.Tensor) -> tf.Tensor:
        noted = tf.numpy_function(note, [content], tf.string)
        return decode(tf.ensure_shape(noted, ()))

    monkeypatch.setattr(tfds_files, "decode", counted)
    return found


def bytes_read() -> int:
    """Return the bytes that this process has read from files; 0 where the system counts none."""
    counter = Path("/proc/self/io")
    return int(counter.read_text().split()[1]) if counter.exists() else 0


def collect(batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def open_as_training(augmentation: AugmentationConfig | None = None) -> tuple[Split, ...]:
    """Open the three splits as `train` does."""
    splits = Splits(COLOURS)
    augmentation = augmentation or AugmentationConfig(pad_and_crop=1)
    training = splits.open("train", batch_size=16, seed=1, augmentation=augmentation)
    return training, *(splits.open(name, batch_size=16) for name in ("validation", "test"))


def use_as_training(splits: tuple[Split, ...], epochs: int = 2) -> None:
    training, validation, test = splits
    collect(training.probe())
    for epoch in range(epochs):
        collect(training.epoch(epoch))
        collect(validation.epoch(0))
    collect(test.epoch(0))


def test_images_are_in_the_split_of_their_content_in_the_order_of_the_files(
    builder: Any, images: dict[str, np.ndarray]
) -> None:
    expected = split_by_content(images["train"])
    assert len(expected["validation"]) > 5
    for split, indices in expected.items():
        opened = open_split(COLOURS, split, batch_size=16)
        assert opened.num_examples == len(indices)
        np.testing.assert_array_equal(collect(opened.epoch(0))[1], indices % 10)
        some = open_split(COLOURS, f"{split}[3:5]", batch_size=16)
        np.testing.assert_array_equal(collect(some.epoch(0))[1], indices[3:5] % 10)


def test_a_training_reads_and_decodes_every_image_once(
    builder: Any, decoded: Counter[bytes]
) -> None:
    size = sum(path.stat().st_size for path in Path(builder.data_path).glob("colours-*record-*"))
    # First read what a process reads only once: modules, TFDS' descriptions.
    use_as_training(open_as_training())
    decoded.clear()
    before = bytes_read()
    use_as_training(open_as_training())
    # An array record is read with a piece of the file around it, so its bytes are not compared.
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        assert bytes_read() - before < 1.5 * size
    assert len(decoded) == sum(COUNTS.values())
    assert set(decoded.values()) == {1}


def test_only_an_epoch_of_a_training_split_beyond_the_limit_decodes_again(
    builder: Any, decoded: Counter[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = collect(open_as_training()[0].epoch(0))
    decoded.clear()
    # The training split alone is too large, by one image.
    limit = open_split(COLOURS, "train", batch_size=1).num_examples - 1
    monkeypatch.setattr(base, "PIXELS_LIMIT", limit * BYTES)
    decoded.clear()
    splits = open_as_training()
    use_as_training(splits)
    # Images are read to find the split, in each of two epochs, and in a first batch as a probe.
    assert Counter(decoded.values()) == {1: sum(COUNTS.values()) - limit - 1, 3: limit - 15, 4: 16}
    for one, other in zip(fits, collect(splits[0].epoch(0)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_second_command_makes_no_pass_to_divide_the_images(
    builder: Any, decoded: Counter[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -3600.0)
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)  # no image is kept
    expected = [collect(split.epoch(0)) for split in open_as_training()]
    decoded.clear()
    found = [collect(split.epoch(0)) for split in open_as_training()]
    assert set(decoded.values()) == {1}  # by the batches
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])

    decoded.clear()
    validation = open_split(COLOURS, "validation", batch_size=16)
    collect(validation.epoch(0))
    assert sum(decoded.values()) == len(decoded) == validation.num_examples

    (archive,) = (tmp_path / "cache" / "divisions").iterdir()
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])  # a damaged archive is written anew
    assert open_split(COLOURS, "validation", batch_size=16).num_examples == validation.num_examples
    assert archive.read_bytes() == content
    file = next(Path(builder.data_path).glob("colours-train*"))
    os.utime(file, ns=(0, 0))  # and so is the division of files that have changed
    decoded.clear()
    open_split(COLOURS, "validation", batch_size=16)
    assert len(decoded) == COUNTS["train"]


def test_an_inception_crop_has_the_images_at_their_own_size(
    builder: Any, decoded: Counter[bytes]
) -> None:
    splits = Splits(COLOURS)
    validation = splits.open("validation", batch_size=16)
    source = splits._source
    assert isinstance(source, tfds_source.TfdsSource)
    kept = weakref.ref(source._divided["train"].gather)
    crops = AugmentationConfig(inception_crop=True)
    training = splits.open("train", batch_size=16, seed=1, augmentation=crops)
    assert kept() is None  # pixels at the network's size are of no use
    decoded.clear()
    collect(validation.epoch(0))
    assert not decoded
    images, _ = collect(training.epoch(0))
    assert images.shape == (training.num_examples, 8, 8, 3)
    assert sum(decoded.values()) >= training.num_examples


def test_images_that_were_kept_serve_a_reader_that_keeps_none(
    builder: Any, decoded: Counter[bytes]
) -> None:
    splits = Splits(COLOURS)
    for split in ("validation", "train"):
        collect(splits.open(split, batch_size=16, in_memory=False).epoch(0))
    assert set(decoded.values()) == {1}
    assert len(decoded) == COUNTS["train"]


def test_the_test_split_is_read_alone(builder: Any, decoded: Counter[bytes]) -> None:
    collect(open_split(COLOURS, "test", batch_size=16).epoch(0))
    assert sum(decoded.values()) == len(decoded) == COUNTS["test"]
