"""TensorFlow Datasets by name and version, its records undecoded until they are needed."""

import contextlib
import functools
import io
import sys
from difflib import get_close_matches
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_cnns.data.decoding import decode
from keras_cnns.data.digits import Digits
from keras_cnns.data.samples import Pair, Samples, Stream, unknown_split

MEMORY_LIMIT = 2**30  # bytes of encoded images; a larger set is read from its files in order
SHUFFLE_BUFFER = 10_000  # samples
FILES_AT_ONCE = 16


@functools.cache
def open_builder(name: str) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set, its files downloaded and prepared once.

    Raises:
        ValueError: there is no data set of this name, or it does not hold labelled images.
    """
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        near = get_close_matches(name, [Digits.name, *tfds.list_builders()], n=3)
        hint = f" Near names: {', '.join(near)}." if near else ""
        reason = str(error).strip() or "not found"
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


def read_labels(name: str) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their numbers."""
    return tuple(open_builder(name).info.features["label"].names)


def open_samples(name: str, split: str) -> Samples | Stream:
    """Return a split of a data set: in memory, encoded, where it has room there.

    Raises:
        ValueError: there is no such data set or split.
    """
    builder = open_builder(name)
    try:
        if builder.info.dataset_size > MEMORY_LIMIT:
            count = builder.info.splits[split].num_examples
            return Stream(count, functools.partial(_read_files, builder, split))
        samples = builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
        )
    except (ValueError, KeyError) as error:
        raise unknown_split(split, builder.info.splits) from error
    batches = [
        (batch["image"], batch["label"]) for batch in samples.batch(1024).as_numpy_iterator()
    ]
    if not batches:
        raise unknown_split(split, builder.info.splits)
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    contents, numbers = tf.constant(images), tf.constant(labels, tf.int64)

    def read(number: tf.Tensor) -> Pair:
        content = contents[number]
        return (decode(content) if content.dtype == tf.string else content), numbers[number]

    return Samples(len(labels), read)


def _read_files(
    builder: tfds.core.DatasetBuilder, split: str, order: tf.Tensor | None
) -> tf.data.Dataset:
    """Return (encoded image, label) file by file; an order's key shuffles files and samples."""
    parts = builder.info.splits[split].file_instructions
    table = {
        "file": tf.constant([str(part.filename) for part in parts]),
        "skip": tf.constant([part.skip for part in parts], tf.int64),
        "take": tf.constant([part.take for part in parts], tf.int64),
    }
    if order is not None:
        places = tf.random.experimental.stateless_shuffle(tf.range(len(parts)), seed=order)
        table = {key: tf.gather(values, places) for key, values in table.items()}

    def open_file(part: dict[str, tf.Tensor]) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(part["file"]).skip(part["skip"]).take(part["take"])

    records = tf.data.Dataset.from_tensor_slices(table).interleave(
        open_file,
        cycle_length=FILES_AT_ONCE if order is not None else 1,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if order is not None:
        seed = order[0] * 1_000_003 + order[1]
        records = records.shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)
    decoders = {"image": tfds.decode.SkipDecoding()}

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sample: dict[str, Any] = builder.info.features.deserialize_example(
            record, decoders=decoders
        )
        return sample["image"], sample["label"]

    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
