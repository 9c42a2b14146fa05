"""The idx files of MNIST, Fashion-MNIST, KMNIST and EMNIST, plain or gzip.

A data set consists of four files, such as train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz,
and two files whose names begin with t10k (or test). An idx file begins with big-endian numbers: the
magic number 0x0801 (labels) or 0x0803 (images), and the size of each dimension. One byte for each
level or label follows (http://yann.lecun.com/exdb/mnist/). Debian's package dataset-fashion-mnist
installs Fashion-MNIST in /usr/share/datasets/fashion-mnist.

The validation split is created from the training images by content (`by_content.py`), as for TFDS,
so that a data set has the same splits in both forms. EMNIST stores images column by column (Cohen
et al. 2017). They are transposed here, so that letters are upright; TFDS does not transpose them.
"""

import functools
import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cnns.data.sources.base import IndexedImages, slice_split
from keras_cnns.data.sources.by_content import split_by_content
from keras_cnns.recipes import DataConfig

_MAX_BYTES = 2**30  # maximum uncompressed size of a file; EMNIST's largest file has 547 MB
_MAX_DEFLATE_RATIO = 1032  # maximum number of bytes to which one byte of gzip can expand
_NAME = re.compile(
    r"(?P<prefix>.*?)(?P<split>train|t10k|test)-(?P<kind>images|labels)"
    r"[-.]idx[13]-ubyte(?P<gzip>\.gz)?"
)
_MAGIC = {"images": 0x0803, "labels": 0x0801}
_DIMENSIONS = {"images": 3, "labels": 1}
# Word in the name of the folder or the files -> names of the classes. The classes of other data
# sets are named by their numbers.
_CLASS_NAMES = {
    "fashion": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
                "Bag", "Ankle boot"),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}  # fmt: skip


@dataclass(frozen=True)
class IdxSet:
    """The images and labels of each split.

    Attributes:
        splits: split -> (images uint8 [N, H, W], labels int64 [N], from 0 to K - 1).
        names: the names of the K classes.
        fingerprint: the SHA-256 of all levels and labels.
    """

    splits: Mapping[str, tuple[np.ndarray, np.ndarray]]
    names: tuple[str, ...]
    fingerprint: str


@functools.lru_cache(maxsize=2)
def read_set(path: str) -> IdxSet:
    """Read the four files of a data set, and create the validation split from its training images.

    Args:
        path: the folder of the files. If the folder contains several data sets, the path continues
            with the beginning of the file names, such as emnist/emnist-letters.

    Raises:
        ValueError: files are missing, or a file is damaged; the message names the file.
    """
    files = find_files(path)
    digest = hashlib.sha256()
    images, stored = {}, {}  # `stored` labels may begin at 1, as in EMNIST's letters
    for split in ("train", "test"):
        images[split], stored[split] = (_read_file(files[split, kind]) for kind in _MAGIC)
        if len(images[split]) != len(stored[split]):
            raise ValueError(
                f"{files[split, 'images']} has {len(images[split]):,} images, but "
                f"{files[split, 'labels']} has {len(stored[split]):,} labels"
            )
        digest.update(images[split].tobytes() + stored[split].tobytes())
    classes = np.unique(stored["train"])
    unknown = np.setdiff1d(stored["test"], classes)
    if len(classes) < 2 or len(unknown):
        raise ValueError(
            f"{files['train', 'labels']} has the labels {classes.tolist()}, and "
            f"{files['test', 'labels']} has the additional labels {unknown.tolist()}; a data set "
            "needs at least 2 different labels, and training images of each label"
        )
    parts = split_by_content(images["train"])
    if "emnist" in files["train", "images"].name.lower():
        images = {split: each.transpose(0, 2, 1) for split, each in images.items()}
    labels = {split: np.searchsorted(classes, each) for split, each in stored.items()}
    set_name = f"{Path(path).resolve().name} {files['train', 'images'].name}".lower()
    known = next((names for word, names in _CLASS_NAMES.items() if word in set_name), ())
    splits = {
        split: (images["train"][indices], labels["train"][indices])
        for split, indices in parts.items()
    }
    splits["test"] = images["test"], labels["test"]
    names = known if len(known) == len(classes) else tuple(map(str, classes.tolist()))
    return IdxSet(splits, names, digest.hexdigest())


class IdxSource:
    """The idx files of a recipe's path as a source."""

    corrections = None

    def __init__(self, config: DataConfig) -> None:
        self._path = config.path

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers."""
        return read_set(self._path).names

    def fingerprint(self) -> str:
        """Return the SHA-256 of all levels and labels."""
        return f"sha256:{read_set(self._path).fingerprint}"

    def open(self, split: str, *, check_first: bool, keep_pixels: bool) -> IndexedImages:
        """Return a split's images, uint8 [H, W, 1]; the errors include those of `read_set`."""
        splits = read_set(self._path).splits
        name, start, stop = slice_split({key: len(each[1]) for key, each in splits.items()}, split)
        pixels, classes = (values[start:stop] for values in splits[name])
        images, labels = tf.constant(pixels[..., np.newaxis]), tf.constant(classes, tf.int64)
        return IndexedImages(stop - start, lambda index: (images[index], labels[index]))


def find_files(path: str | Path) -> dict[tuple[str, str], Path]:
    """Return (train or test, images or labels) -> file.

    Raises:
        ValueError: there is no such folder, or one of the four files is missing or ambiguous.
    """
    path = Path(path)
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder.absolute()}")
    found: dict[tuple[str, str], list[Path]] = {
        (split, kind): [] for split in ("train", "test") for kind in _MAGIC
    }
    for file in sorted(folder.iterdir()):
        match = _NAME.fullmatch(file.name)
        if match and file.name.startswith(prefix):
            split = "train" if match["split"] == "train" else "test"
            found[split, match["kind"]].append(file)
    for (split, kind), files in found.items():
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise ValueError(
                f"{path} must have one idx file of the {split} {kind}, such as "
                f"{'train' if split == 'train' else 't10k'}-{kind}-idx{_DIMENSIONS[kind]}-ubyte.gz;"
                f" found: {names}. If the folder contains several data sets, let data.path "
                "continue with the beginning of the file names, such as emnist/emnist-letters"
            )
    return {key: files[0] for key, files in found.items()}


def _read_file(path: Path) -> np.ndarray:
    """Return the content of an idx file: images uint8 [N, H, W] or labels uint8 [N].

    Raises:
        ValueError: the file is not an idx file of unsigned bytes, or its size does not match its
            header.
    """
    match = _NAME.fullmatch(path.name)
    assert match
    kind = match["kind"]
    try:
        with gzip.open(path) if match["gzip"] else path.open("rb") as file:
            magic = int.from_bytes(file.read(4))
            if magic != _MAGIC[kind]:
                raise ValueError(
                    f"{path} begins with {magic:#010x}; an idx file of {kind} begins with "
                    f"{_MAGIC[kind]:#010x}"
                )
            header = file.read(4 * _DIMENSIONS[kind])
            shape = tuple(int.from_bytes(header[i : i + 4]) for i in range(0, len(header), 4))
            if len(shape) < _DIMENSIONS[kind] or 0 in shape:
                raise ValueError(f"{path} is cut short or empty: its shape is {list(shape)}")
            expected = math.prod(shape)
            bound = path.stat().st_size * (_MAX_DEFLATE_RATIO if match["gzip"] else 1)
            if expected > min(bound, _MAX_BYTES):
                raise ValueError(
                    f"{path} is cut short, or its header is wrong: the shape {list(shape)} needs "
                    f"{expected:,} bytes, which is more than a file of {path.stat().st_size:,} "
                    f"bytes can hold, or more than the limit of {_MAX_BYTES:,} bytes"
                )
            content = file.read(expected + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(content) != expected:
        size = "more" if len(content) > expected else f"{len(content):,}"
        raise ValueError(
            f"{path}: its header gives the shape {list(shape)}, which needs {expected:,} bytes, "
            f"but the file holds {size}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
