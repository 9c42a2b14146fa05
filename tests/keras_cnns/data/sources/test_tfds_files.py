"""TFDS sets in several files: read into memory, as a stream, or record by record."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_cnns.data.pipeline import make_split
from keras_cnns.data.sources import tfds_files
from keras_cnns.data.sources.base import ImageStream, IndexedImages
from keras_cnns.data.sources.digits import Digits
from keras_cnns.recipes import load_recipe

DIGITS = load_recipe("digits-resnet20").data
FILES = 8
SPLIT, COUNT = "validation[10%:]", 162  # of 8 files; begins within a file
Open = Callable[..., IndexedImages | ImageStream]


@pytest.fixture(scope="module")
def builders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The digits in 8 files of each format."""
    found = {}
    tfds.disable_progress_bar()
    for file_format in ("tfrecord", "array_record"):
        folder = tmp_path_factory.mktemp(file_format)
        builder = tfds.builder("digits", data_dir=folder, file_format=file_format)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=FILES))
        found[file_format] = tfds.builder("digits", data_dir=folder)  # read the prepared files
    tfds.enable_progress_bar()
    return found


@pytest.fixture
def open_images(builders: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Open:
    def open_one(kind: str, split: str = SPLIT) -> IndexedImages | ImageStream:
        monkeypatch.setattr(tfds_files, "MEMORY_LIMIT", 0 if kind == "stream" else 2**30)
        builder = builders["array_record" if kind == "array_record" else "tfrecord"]
        monkeypatch.setattr(tfds_files, "open_builder", lambda name: builder)
        return tfds_files.open_images("digits", split)

    return open_one


def collect(batches: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True))


KINDS = {"memory": IndexedImages, "stream": ImageStream, "array_record": IndexedImages}


def test_two_processes_may_prepare_the_same_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", tmp_path)
    generate, others = Digits._generate_examples, [tfds.builder("digits")]

    def generate_late(builder: Digits, split: str) -> Iterator[Any]:
        while others:  # as if another process had started earlier
            others.pop().download_and_prepare()
        yield from generate(builder, split)

    monkeypatch.setattr(Digits, "_generate_examples", generate_late)
    builder = tfds_files.open_builder.__wrapped__("digits")
    assert builder.data_path == tmp_path / "digits" / "1.0.0"
    assert builder.info.splits["train"].num_examples == 1253
    assert [path.name for path in builder.data_path.parent.iterdir()] == ["1.0.0"]


def test_every_way_reads_the_same_images(open_images: Open) -> None:
    found = {}
    for kind, of_class in KINDS.items():
        opened = open_images(kind)
        assert isinstance(opened, of_class)
        assert opened.count == COUNT
        images, labels = collect(make_split(opened, DIGITS, 10, batch_size=100).epoch(0))
        assert images.shape == (COUNT, 32, 32, 1)
        found[kind] = sorted(
            (image.tobytes(), label) for image, label in zip(images, labels, strict=True)
        )
    assert found["memory"] == found["stream"] == found["array_record"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_shuffled_anew_and_has_each_image_once(open_images: Open, kind: str) -> None:
    opened = open_images(kind)
    plain = collect(make_split(opened, DIGITS, 10, batch_size=32).epoch(0))
    shuffled = make_split(opened, DIGITS, 10, batch_size=32, seed=1)
    epochs = [collect(shuffled.epoch(number)) for number in range(2)]
    expected = sorted(image.tobytes() for image in plain[0])
    for images, labels in epochs:
        assert sorted(image.tobytes() for image in images) == expected
        # The order is random: neighbours have the same label as often as by chance.
        assert np.mean(labels[1:] == labels[:-1]) == pytest.approx(0.1, abs=0.08)
    assert not np.array_equal(epochs[0][1], epochs[1][1])


def bytes_read() -> int:
    """Return the bytes that this process has read from files."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes")
@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("kind", ["stream", "array_record"])
def test_resuming_does_not_read_what_came_before(
    open_images: Open, kind: str, seed: int | None
) -> None:
    split = make_split(open_images(kind, "train"), DIGITS, 10, batch_size=32, seed=seed)

    def read_from(step: int) -> tuple[tuple[np.ndarray, ...], int]:
        before = bytes_read()
        return collect(split.epoch(1, start_step=step)), bytes_read() - before

    whole, of_whole = read_from(0)
    for step in (20, 36):
        rest, of_rest = read_from(step)
        for one, other in zip(rest, whole, strict=True):
            np.testing.assert_array_equal(one, other[32 * step :])
        # In addition, at most the file with the step, and two files of the next epoch, are read
        # ahead.
        assert of_rest / of_whole < 1 - step / split.steps + 3 / FILES


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes")
def test_the_probe_of_a_training_reads_a_batch_and_no_shuffle_buffer(
    open_images: Open, builders: dict[str, Any]
) -> None:
    split = make_split(open_images("stream", "train"), DIGITS, 10, batch_size=8, seed=1)
    before = bytes_read()
    one, other = (collect(split.probe()) for _ in range(2))
    folder = Path(builders["tfrecord"].data_dir)
    size = sum(path.stat().st_size for path in folder.glob("digits-train*"))
    assert bytes_read() - before < 0.5 * size
    assert len(one[1]) == 8
    np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["dev", "train[:0]", "train[", "test[400:]"])
def test_a_missing_or_empty_split_is_an_error_at_once(
    open_images: Open, kind: str, split: str
) -> None:
    with pytest.raises(
        ValueError, match=r"there is no split .* the splits are train, validation, test"
    ):
        open_images(kind, split)


def test_without_the_package_array_records_are_a_clear_error(
    open_images: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_data_source", None)
    with pytest.raises(ValueError, match=r"digits/1\.0\.0 is stored as array records.*pip install"):
        open_images("array_record")
