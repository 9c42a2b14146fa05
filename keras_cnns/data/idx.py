"""The idx files of MNIST, Fashion-MNIST, KMNIST and EMNIST, plain or gzip.

A data set is four files, such as train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and two
that begin with t10k (or test). An idx file is a header of big-endian numbers, the magic number
0x0801 (labels) or 0x0803 (images) and the size of each dimension, and then one byte for each level
or label (http://yann.lecun.com/exdb/mnist/). Debian's package dataset-fashion-mnist installs
Fashion-MNIST in /usr/share/datasets/fashion-mnist.

The validation split is taken out of the training images by content, as for TFDS (`by_content.py`):
the same images are in the same split. EMNIST stores the columns of an image first (Cohen et al.
2017); its images are transposed here, so that letters are upright. TFDS leaves them as stored.
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

from keras_cnns.data.by_content import split_by_content
from keras_cnns.data.samples import Samples, slice_split

MAX_BYTES = 2**30  # of one file's levels; EMNIST's largest has 547 MB
MAX_DEFLATE_RATIO = 1032  # bytes that one byte of gzip can expand to
_NAME = re.compile(
    r"(?P<prefix>.*?)(?P<split>train|t10k|test)-(?P<kind>images|labels)"
    r"[-.]idx[13]-ubyte(?P<gzip>\.gz)?"
)
_MAGIC = {"images": 0x0803, "labels": 0x0801}
_DIMENSIONS = {"images": 3, "labels": 1}


# Names of the classes, by a word in the folder's or the files' name; elsewhere they are numbers.
_NAMES = {
    "fashion": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
                "Bag", "Ankle boot"),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}  # fmt: skip


@dataclass(frozen=True)
class IdxSet:
    """The images and labels of each split."""

    splits: Mapping[str, tuple[np.ndarray, np.ndarray]]  # uint8 [N, H, W], int64 [N] below K
    names: tuple[str, ...]  # of the K classes
    fingerprint: str  # SHA-256 of the files' levels and labels


@functools.lru_cache(maxsize=2)
def read_set(path: str) -> IdxSet:
    """Read the four files of a data set, and take the validation split out of its training images.

    Args:
        path: the folder of the files; where it has those of several sets, the folder and the
            beginning of the file names, such as emnist/emnist-letters.

    Raises:
        ValueError: files are missing, or one is damaged; the message names it.
    """
    files = find_files(path)
    digest = hashlib.sha256()
    images, numbers = {}, {}
    for split in ("train", "test"):
        images[split], numbers[split] = (read_file(files[split, kind]) for kind in _MAGIC)
        if len(images[split]) != len(numbers[split]):
            raise ValueError(
                f"{files[split, 'images']} has {len(images[split]):,} images, and "
                f"{files[split, 'labels']} {len(numbers[split]):,} labels"
            )
        digest.update(images[split].tobytes() + numbers[split].tobytes())
    classes = np.unique(numbers["train"])
    unknown = np.setdiff1d(numbers["test"], classes)
    if len(classes) < 2 or len(unknown):
        raise ValueError(
            f"{files['train', 'labels']} has the labels {classes.tolist()}, and "
            f"{files['test', 'labels']} also {unknown.tolist()}; at least 2 labels are needed, and "
            "training images of each"
        )
    parts = split_by_content(images["train"])
    if "emnist" in files["train", "images"].name.lower():
        images = {split: each.transpose(0, 2, 1) for split, each in images.items()}
    labels = {split: np.searchsorted(classes, each) for split, each in numbers.items()}
    where = f"{Path(path).resolve().name} {files['train', 'images'].name}".lower()
    known = next((names for word, names in _NAMES.items() if word in where), ())
    whole = images["train"], labels["train"]
    splits = {split: (whole[0][chosen], whole[1][chosen]) for split, chosen in parts.items()}
    splits["test"] = images["test"], labels["test"]
    names = known if len(known) == len(classes) else tuple(map(str, classes.tolist()))
    return IdxSet(splits, names, digest.hexdigest())


def open_samples(path: str, split: str) -> Samples:
    """Return a split's images: uint8 [H, W, 1].

    Raises:
        ValueError: as for `read_set`; or there is no such split, or it is empty.
    """
    data = read_set(path)
    counts = {name: len(labels) for name, (_, labels) in data.splits.items()}
    name, start, stop = slice_split(counts, split)
    levels, numbers = (values[start:stop] for values in data.splits[name])
    images, labels = tf.constant(levels[..., np.newaxis]), tf.constant(numbers, tf.int64)
    return Samples(stop - start, lambda index: (images[index], labels[index]))


def find_files(path: str | Path) -> dict[tuple[str, str], Path]:
    """Return the files by split, train or test, and kind, images or labels.

    Raises:
        ValueError: there is no such folder, or one of the four is missing or there twice.
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
                f" found: {names}. If the folder has several sets, set data.path to the folder and "
                "the beginning of the file names"
            )
    return {key: files[0] for key, files in found.items()}


def read_file(path: Path) -> np.ndarray:
    """Return the content of an idx file: images uint8 [N, H, W] or labels uint8 [N].

    Raises:
        ValueError: it is not an idx file of unsigned bytes, or its size differs from its header.
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
                raise ValueError(f"{path} is cut short or empty: its sizes are {list(shape)}")
            expected = math.prod(shape)
            room = path.stat().st_size * (MAX_DEFLATE_RATIO if match["gzip"] else 1)
            if expected > min(room, MAX_BYTES):
                raise ValueError(
                    f"{path} is cut short, or its header is wrong: sizes of {list(shape)} are "
                    f"{expected:,} bytes, more than a file of {path.stat().st_size:,} bytes can "
                    f"hold or than the limit, {MAX_BYTES:,}"
                )
            content = file.read(expected + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(content) != expected:
        more = "more" if len(content) > expected else f"{len(content):,}"
        raise ValueError(
            f"{path}: its header gives sizes {list(shape)}, which are {expected:,} bytes; it holds "
            f"{more}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
