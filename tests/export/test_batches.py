"""The images on which formats are compared, and from which int8 gets its ranges."""

import itertools
import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_cnns.data import Splits
from keras_cnns.data.decoding import decode
from keras_cnns.data.sources import base, tfds_files
from keras_cnns.recipes import load_recipe
from keras_cnns.report.page import Picture
from keras_cnns_export import ExportError, batches, export, export_run
from keras_cnns_export.batches import Batch, CachedBatches, first, shuffled_split
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.options import Quantization


def test_the_head_of_a_sorted_folder_has_every_class_and_no_augmentation(tmp_path: Path) -> None:
    for level, label in enumerate(("cat", "dog", "owl")):
        (tmp_path / label).mkdir()
        for number in range(60):
            pixels = np.full((8, 8, 3), 60 * level + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    sizes = ["data.image_size=8", "data.resize_shorter=8"]
    data = load_recipe("finetune-folder", [f"data.path={tmp_path}", *sizes]).data
    images, classes = first(shuffled_split(Splits(data), "train"), 48)
    assert classes is not None
    assert np.bincount(classes, minlength=3).min() >= 8
    again, _ = first(shuffled_split(Splits(data), "train"), 48)
    np.testing.assert_array_equal(images, again)
    assert len(np.unique(images.reshape(48, -1), axis=0)) == 48  # each once
    np.testing.assert_array_equal(images[:, 0, 0, 0] // 60, classes)
    assert (images == images[:, :1, :1]).all()


@pytest.mark.parametrize("limit", [1, 10_000, 2**29])
def test_cached_batches_are_read_once_and_when_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(batches, "MEMORY_LIMIT", limit)
    read: list[int] = []

    def source() -> Iterator[Batch]:
        for number in range(5):
            read.append(number)
            images = np.full((3, 16, 20, 3), number, np.uint8)
            yield images, np.arange(3) if number % 2 else None

    cached = CachedBatches(source())
    assert read == []
    assert first(cached, 5)[0].shape == (5, 16, 20, 3)
    assert read == [0, 1]
    for _ in range(2):
        for number, (images, classes) in enumerate(cached):
            assert images.dtype == np.uint8
            assert (images == number).all()
            assert (classes is None) == (number % 2 == 0)
            assert len(list(itertools.islice(cached, 3))) == 3  # another reader meanwhile
        assert number == 4
    assert read == list(range(5))
    assert list(CachedBatches([])) == []


def test_cached_batches_beyond_the_limit_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MEMORY_LIMIT", 2**20)
    batch = (np.zeros((64, 64, 64, 3), np.uint8), None)
    tracemalloc.start()
    try:
        cached = CachedBatches(itertools.repeat(batch, 50))
        for _ in range(2):
            assert sum(1 for _ in cached) == 50
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * batch[0].nbytes


def test_a_temporary_folder_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(batches, "MEMORY_LIMIT", 1000)
    cached = CachedBatches([(np.zeros((64, 16, 16, 3), np.uint8), None)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ExportError, match=r"cannot keep .* in /.*: File too large; set TMPDIR"):
            list(cached)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


INT8 = [name for name, row in FORMATS.items() if row.precision == "int8"]
TWICE: dict[str, Any] = {"calibrate": True, "report": True}  # reads the validation split twice
# Formats, options, and the bytes of images that are kept in memory.
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any], int]] = {
    "plain, beyond the limit": (("onnx",), {}, 10_000),
    "calibrated, beyond the limit": (("onnx", "openvino", *INT8), TWICE, 10_000),
    "calibrated, in memory": (("onnx",), TWICE, 2**29),
}


@pytest.mark.parametrize("case", CASES)
def test_an_export_decodes_only_what_it_uses_and_once(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    formats, options, limit = CASES[case]
    for module, name in ((batches, "MEMORY_LIMIT"), (base, "PIXELS_LIMIT")):
        monkeypatch.setattr(module, name, limit)
    decoded: Counter[bytes] = Counter()

    def note(content: bytes) -> bytes:
        decoded[content] += 1
        return content

    def counted(content: tf.Tensor) -> tf.Tensor:
        noted = tf.numpy_function(note, [content], tf.string)
        return decode(tf.ensure_shape(noted, ()))

    monkeypatch.setattr(tfds_files, "decode", counted)
    quantization = Quantization(samples=20)
    to = tmp_path / "digits"
    export_run(finished_run, to, formats=formats, quantization=quantization, **options)
    validation, training = encoded("validation"), encoded("train")
    assert {content: decoded[content] for content in validation} == validation
    of_training = {content: decoded[content] for content in decoded if content not in validation}
    assert all(count <= training[content] for content, count in of_training.items())
    if set(formats) & set(INT8):
        assert 20 <= sum(of_training.values()) < 0.5 * sum(training.values())
    else:
        assert of_training == {}


def test_batches_that_can_be_read_only_once_suffice(tmp_path: Path, trained: Any) -> None:
    model, images, classes = trained
    batches = ((images[n : n + 50], classes[n : n + 50]) for n in range(0, len(images), 50))
    version = export(
        model,
        tmp_path / "trained",
        samples=("test", batches),
        formats=("onnx", "onnx_int8"),
        quantization=Quantization(samples=60),
        calibrate=True,
        report=True,
    )
    content = json.loads((version / "model.json").read_text(encoding="utf-8"))
    assert content["parity"]["samples"] == content["calibration"]["samples"] == len(images)
    assert content["formats"]["onnx_int8"]["calibration"]["samples"] == 60
    worst = content["parity"]["formats"]["onnx"]["worst_sample"]
    shown = Picture(images[worst], ("onnx",)).uri
    assert shown in (version / "report.html").read_text(encoding="utf-8")


def encoded(split: str) -> Counter[bytes]:
    """Return the encoded images of the digits, and how often each occurs."""
    examples = tfds_files.open_builder("digits").as_dataset(
        split=split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return Counter(example["image"] for example in examples.as_numpy_iterator())
