"""From a data set's name and a split's to batches."""

import functools
import json

import tensorflow as tf

from keras_cnns.data import folder, shapes, tfds_samples
from keras_cnns.data.pipeline import NO_AUGMENTATION, Split
from keras_cnns.data.samples import Samples, Stream
from keras_cnns.recipes import AugmentationConfig, DataConfig


def read_labels(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, K of them, in the order of their numbers."""
    if config.name == "folder":
        return folder.read_labels(folder.read_files(config.path, config.skip_bad))
    if config.name == "shapes":
        return tuple(shapes.FIGURES)
    return tfds_samples.read_labels(config.name)


def open_split(
    config: DataConfig,
    split: str,
    *,
    batch_size: int,
    seed: int | None = None,
    augmentation: AugmentationConfig = NO_AUGMENTATION,
    one_hot: bool = False,
) -> Split:
    """Open a split, to be read epoch by epoch from any step.

    Args:
        config: which data set, and how its images are preprocessed.
        split: a split's name, or TFDS' slicing of one, as `train[:45000]`.
        batch_size: images in a batch.
        seed: of the order and the augmentation; None keeps the order, and changes nothing.
        augmentation: what happens to the images.
        one_hot: give targets [N, K], not labels [N]; augmentation that mixes labels always does.

    Raises:
        ValueError: there is no such data set or split.
    """
    return Split(
        _open_samples(config, split),
        config,
        len(read_labels(config)),
        batch_size=batch_size,
        seed=seed,
        augmentation=augmentation,
        one_hot=one_hot,
    )


def load_split(
    config: DataConfig, split: str, *, batch_size: int, one_hot: bool = False
) -> tf.data.Dataset:
    """Return a split, once through and as it is, as batches of (uint8 [N, H, W, C], int64 [N]).

    Raises:
        ValueError: there is no such data set or split.
    """
    return open_split(config, split, batch_size=batch_size, one_hot=one_hot).epoch(0)


def fingerprint(config: DataConfig) -> str:
    """Return what tells one state of a data set from another: a hash, or a name and version."""
    if config.name == "folder":
        files = folder.read_files(config.path, config.skip_bad)
        return f"sha256:{folder.fingerprint(files, config.path)}"
    if config.name == "shapes":
        return f"shapes of {config.image_size} pixels, {config.samples} samples"
    info = tfds_samples.open_builder(config.name).info
    counts = {name: split.num_examples for name, split in info.splits.items()}
    return f"{info.full_name} {json.dumps(counts)}"


@functools.lru_cache(maxsize=8)
def _open_samples(config: DataConfig, split: str) -> Samples | Stream:
    if config.name == "folder":
        specs = (config.train_split, config.validation_split, config.test_split, split)
        wanted = [spec.partition("[")[0] for spec in specs]
        files = folder.read_files(config.path, config.skip_bad)
        return folder.open_samples(files, split, sorted(set(wanted)))
    if config.name == "shapes":
        return shapes.open_samples(split, config.samples, config.resize_shorter)
    return tfds_samples.open_samples(config.name, split)
