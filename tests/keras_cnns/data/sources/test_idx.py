"""idx files: read by their names, split by content as TFDS is, refused if they are damaged."""

import gzip
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_cnns.data import fingerprint, open_split, read_labels
from keras_cnns.data.sources import idx
from keras_cnns.recipes import DataConfig, load_recipe

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
GENERATOR = np.random.default_rng(0)
COUNTS = {"train": 200, "test": 20}
IMAGES = {split: GENERATOR.integers(0, 256, (n, 6, 5), np.uint8) for split, n in COUNTS.items()}
LABELS = {split: (np.arange(n) % 3).astype(np.uint8) for split, n in COUNTS.items()}
MNIST = "{split}-{kind}-idx{dimensions}-ubyte"


def encoded(values: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    return header + values.tobytes()


def write_set(
    folder: Path, name: str = MNIST + ".gz", test: str = "t10k", first_label: int = 0
) -> Path:
    folder.mkdir(exist_ok=True)
    for split in COUNTS:
        for kind, values in ("images", IMAGES[split]), ("labels", LABELS[split] + first_label):
            file = folder / name.format(
                split=test if split == "test" else split, kind=kind, dimensions=values.ndim
            )
            content = encoded(values)
            file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return folder


def config_of(path: Path, name: str = "idx") -> DataConfig:
    return DataConfig(name, 5, 5, 1, (0.0,), (1.0,), path=str(path) if name == "idx" else "")


def images_of(config: DataConfig, split: str) -> np.ndarray:
    batches = open_split(config, split, batch_size=64).epoch(0).as_numpy_iterator()
    return np.concatenate([images for images, _ in batches])


@pytest.mark.parametrize(
    ("name", "test", "first_label"),
    [
        (MNIST, "t10k", 0),
        (MNIST + ".gz", "t10k", 0),
        ("{split}-{kind}.idx{dimensions}-ubyte", "t10k", 0),
        ("qmnist-{split}-{kind}-idx{dimensions}-ubyte.gz", "test", 0),
        ("emnist-letters-{split}-{kind}-idx{dimensions}-ubyte.gz", "test", 1),
    ],
)
def test_the_four_files_are_read_by_their_names(
    name: str, test: str, first_label: int, tmp_path: Path
) -> None:
    path = write_set(tmp_path / "set", name, test, first_label)
    data = idx.read_set(str(path))
    expected = IMAGES["test"].transpose(0, 2, 1) if "emnist" in name else IMAGES["test"]
    np.testing.assert_array_equal(data.splits["test"][0], expected)
    np.testing.assert_array_equal(data.splits["test"][1], LABELS["test"])
    assert data.names == tuple(str(first_label + number) for number in range(3))
    sizes = {split: len(labels) for split, (_, labels) in data.splits.items()}
    assert sizes["train"] + sizes["validation"] == COUNTS["train"]
    assert 5 < sizes["validation"] < 40


def test_of_several_sets_the_path_names_one(tmp_path: Path) -> None:
    for name in ("emnist-letters", "emnist-digits"):
        write_set(tmp_path, name + "-{split}-{kind}-idx{dimensions}-ubyte.gz", "test")
    with pytest.raises(ValueError, match=r"must have one idx file .* found: emnist-digits-"):
        idx.find_files(tmp_path)
    assert len(idx.read_set(str(tmp_path / "emnist-letters")).names) == 3


class TinyFashion(tfds.core.GeneratorBasedBuilder):
    """The images of this file as TFDS stores Fashion-MNIST: PNG, and no validation split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=(6, 5, 1)),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, image in enumerate(IMAGES[split]):
            yield index, {"image": image[..., None], "label": int(LABELS[split][index])}


def test_idx_and_tfds_have_the_same_images_in_the_same_splits(tmp_path: Path) -> None:
    tfds.core.add_data_dir(str(tmp_path))
    TinyFashion(data_dir=tmp_path).download_and_prepare()
    idx_config = config_of(write_set(tmp_path / "set"))
    for split in ("train", "validation", "test", "train[:10]"):
        from_idx = images_of(idx_config, split)
        from_tfds = images_of(config_of(tmp_path, "tiny_fashion"), split)
        if "[" not in split:  # TFDS has an order of its own
            from_idx, from_tfds = (np.unique(each, axis=0) for each in (from_idx, from_tfds))
            np.testing.assert_array_equal(from_idx, from_tfds)
        assert len(from_idx) == len(from_tfds)


def test_a_combination_that_includes_the_validation_images_is_refused(tmp_path: Path) -> None:
    tfds.core.add_data_dir(str(tmp_path))
    TinyFashion(data_dir=tmp_path).download_and_prepare()
    config = replace(config_of(tmp_path, "tiny_fashion"), train_split="train+test")
    with pytest.raises(ValueError, match=r"and 'train\+test' would include this part"):
        open_split(config, config.train_split, batch_size=8)


def test_only_the_folders_own_name_chooses_the_names_of_classes(tmp_path: Path) -> None:
    (tmp_path / "fashion").mkdir()
    path = write_set(tmp_path / "fashion" / "digits")
    assert idx.read_set(str(path)).names == ("0", "1", "2")


def damage(path: Path, what: str) -> None:
    """Replace the training images by something else."""
    header = struct.pack(">4I", 0x0803, 200, 6, 5)
    contents = {
        "another magic number": struct.pack(">4I", 0x0D03, 200, 6, 5) + bytes(6_000),
        "labels": encoded(LABELS["train"]),
        "fewer images than labels": encoded(IMAGES["train"][:-1]),
        "a header cut short": header[:9],
        "no images": struct.pack(">4I", 0x0803, 0, 6, 5),
        "too few bytes": encoded(IMAGES["train"])[:-1],
        "too many bytes": encoded(IMAGES["train"]) + b"0",
        "sizes of 2^31": struct.pack(">4I", 0x0803, 2**31, 2**31 - 1, 2**31) + bytes(100),
        "a gzip bomb": header + bytes(200_000_000),
        "a bomb within its sizes": struct.pack(">4I", 0x0803, 2**31 - 1, 28, 28) + bytes(10**8),
    }
    content = gzip.compress(contents.get(what, contents["too many bytes"]), 1)
    files = {
        "no gzip": encoded(IMAGES["train"]),
        "gzip cut short": content[:-30],
        "gzip overwritten": content[:10] + b"\xff" * 10 + content[20:],
    }
    path.write_bytes(files.get(what, content))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("another magic number", "begins with 0x00000d03; an idx file of images .* 0x00000803"),
        ("labels", "begins with 0x00000801"),
        ("fewer images than labels", "has 199 images, but .* 200 labels"),
        ("a header cut short", "is cut short or empty"),
        ("no images", "is cut short or empty"),
        ("too few bytes", "which needs 6,000 bytes, but the file holds 5,999"),
        ("too many bytes", "which needs 6,000 bytes, but the file holds more"),
        ("sizes of 2^31", "more than a file of .* can hold"),
        ("a gzip bomb", "but the file holds more"),
        ("a bomb within its sizes", "or more than the limit of 1,073,741,824"),
        ("no gzip", "cannot be read: Not a gzipped file"),
        ("gzip cut short", "cannot be read: Compressed file ended"),
        ("gzip overwritten", "cannot be read: Error -3 while decompressing"),
    ],
)
def test_damaged_files_are_refused_by_name_without_much_memory(
    what: str, message: str, tmp_path: Path
) -> None:
    file = write_set(tmp_path / "set") / "train-images-idx3-ubyte.gz"
    damage(file, what)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as error:
            idx.read_set(str(file.parent))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(file) in str(error.value)
    assert peak < 2_000_000


def test_a_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    message = r"one idx file of the test labels, such as t10k-labels-idx1-ubyte\.gz; found: none"
    with pytest.raises(ValueError, match=message):
        idx.read_set(str(folder))
    with pytest.raises(ValueError, match=r"there is no folder .*absent"):
        idx.read_set(str(tmp_path / "absent" / "files"))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist, as CI has")
def test_debians_fashion_mnist_is_read_and_split() -> None:
    """Pinned: the validation split of every run on Fashion-MNIST."""
    config = load_recipe("fashion-resnet20").data
    assert read_labels(config)[:2] == ("T-shirt/top", "Trouser")
    sizes = {
        split: open_split(config, split, batch_size=100).num_examples
        for split in ("train", "validation", "test")
    }
    assert sizes == {"train": 53_962, "validation": 6_038, "test": 10_000}
    pixels = idx.read_set(str(DEBIAN)).splits["train"][0]
    assert abs(pixels.mean() - config.mean[0]) < 0.2
    assert abs(pixels.std() - config.std[0]) < 0.2
    assert fingerprint(config).startswith("sha256:")
