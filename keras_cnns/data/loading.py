"""From a data set's name to batches of (images uint8 [N, H, W, C], labels int64 [N])."""

import contextlib
import functools
import io
import sys
from difflib import get_close_matches
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_cnns.data.augmentation import augment
from keras_cnns.data.digits import Digits
from keras_cnns.data.preprocessing import preprocess
from keras_cnns.recipes import DataConfig

SHUFFLE_BUFFER = 10_000  # samples


@functools.cache
def _builder(name: str) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set, its files downloaded and prepared once.

    Raises:
        ValueError: there is no data set of this name, or it does not hold labelled images.
    """
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        near = get_close_matches(name, [Digits.name, *tfds.list_builders()], n=3)
        hint = f" Near names: {', '.join(near)}." if near else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "not found"
        raise ValueError(f"there is no data set {name!r} ({reason}).{hint}") from None
    features = builder.info.features
    expected = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(
        key in features and isinstance(features[key], kind) for key, kind in expected.items()
    ):
        raise ValueError(
            f"data set {name!r} has no features 'image' and 'label': it has {features}"
        )
    if not builder.data_path.exists():
        print(f"preparing the data set {builder.info.full_name} (only this once)", file=sys.stderr)
        if isinstance(builder, Digits):  # a matter of seconds, and nothing is downloaded
            tfds.disable_progress_bar()
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
            tfds.enable_progress_bar()
        else:
            builder.download_and_prepare()
    return builder


def read_labels(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, K of them, in the order of their numbers."""
    return tuple(_builder(config.name).info.features["label"].names)


def load_split(
    config: DataConfig, split: str, *, batch_size: int, training: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Return a split as batches of (images uint8 [N, H, W, C], labels int64 [N]).

    Args:
        config: which data set, and how its images are preprocessed and augmented.
        split: a split's name, or TFDS' slicing of one, as `train[:45000]`.
        batch_size: images in a batch; the last may have fewer.
        training: shuffle anew each epoch, and augment.
        seed: of both.

    Raises:
        ValueError: there is no such data set or split.
    """
    builder = _builder(config.name)
    try:
        samples = builder.as_dataset(
            split=split, shuffle_files=False, read_config=tfds.ReadConfig(try_autocache=False)
        )
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"data set {config.name!r} has no split {split!r}, or nothing in it: "
            f"it has {', '.join(builder.info.splits)}"
        ) from error

    def to_pair(sample: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        return preprocess(sample["image"], config.preprocessing()), sample["label"]

    pairs = samples.map(to_pair, num_parallel_calls=tf.data.AUTOTUNE)
    if training:
        pairs = pairs.shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=True)
        pairs = augment(pairs, config, seed)
    return pairs.batch(batch_size).prefetch(tf.data.AUTOTUNE)
