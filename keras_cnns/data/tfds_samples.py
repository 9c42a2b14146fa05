"""TensorFlow Datasets by name and version; images stay encoded until they are needed."""

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_cnns.cores import available_cores
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.decoding import decode
from keras_cnns.data.digits import Digits
from keras_cnns.data.samples import Pair, Samples, Stream, unknown_split

MEMORY_LIMIT = 2**30  # bytes of encoded images; a larger set is read from its files in order
SHUFFLE_BUFFER = 10_000  # examples
FILES_AT_ONCE = 16
BLOCKS = 16  # of an epoch, at least, where there are as many files


@functools.cache
def open_builder(name: str) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set, its files downloaded and prepared once.

    Raises:
        ValueError: there is no data set of this name, or it does not hold labelled images.
    """
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        near = get_close_matches(name, {Digits.name, *tfds.list_builders()}, n=3)
        hint = f" Near names: {', '.join(near)}." if near else ""
        reason = str(error).strip().partition("\n")[0] or "not found"  # then it lists all sets
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
    """Open a split of a data set; nothing is read yet.

    Array records are read one by one. Of TFRecord files a set of up to `MEMORY_LIMIT` bytes is read
    into memory, encoded, when its first image is needed; a larger one is a stream.

    Raises:
        ValueError: there is no such data set or split, the split is empty, or its files are of a
            format that cannot be read here.
    """
    builder = open_builder(name)
    try:
        chosen = builder.info.splits[split]
        count = chosen.num_examples
    except (ValueError, KeyError, AssertionError) as error:
        raise unknown_split(split, builder.info.splits) from error
    if not count:
        raise unknown_split(split, builder.info.splits)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        return Samples(count, _array_record_reader(builder, chosen.file_instructions))
    if builder.info.dataset_size > MEMORY_LIMIT:
        return Stream(count, functools.partial(_read_files, builder, chosen.file_instructions))

    @functools.cache
    def load() -> Pair:
        with tf.init_scope():  # a pipeline that reads them is being traced
            return _read_into_memory(builder, split)

    def read(number: tf.Tensor) -> Pair:
        contents, labels = load()
        content = contents[number]
        return (decode(content) if content.dtype == tf.string else content), labels[number]

    return Samples(count, read)


def _read_into_memory(builder: tfds.core.DatasetBuilder, split: str) -> Pair:
    """Return all encoded images and labels of a split."""
    examples = without_autotuning(
        builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
        ).batch(1024)
    )
    batches = [(batch["image"], batch["label"]) for batch in examples.as_numpy_iterator()]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return tf.constant(images), tf.constant(labels, tf.int64)


def _array_record_reader(
    builder: tfds.core.DatasetBuilder, parts: Sequence[Any]
) -> Callable[[tf.Tensor], Pair]:
    """Return a function from an example's index to its image and label.

    Raises:
        ValueError: the package array_record is not installed.
    """
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError:
        raise ValueError(
            f"the data set {builder.info.full_name} is stored as array records, which the package "
            "array_record reads: install it (`pip install 'keras-cnns[array-record]'`), or prepare "
            "the data set with file_format='tfrecord'"
        ) from None
    records = ArrayRecordDataSource(parts)

    def read(number: tf.Tensor) -> Pair:
        record = tf.numpy_function(
            lambda index: records[int(index)], [number], tf.string, stateful=False
        )
        content, label = _parse(builder, tf.ensure_shape(record, ()))
        return decode(content), label

    return read


def _read_files(
    builder: tfds.core.DatasetBuilder, parts: Sequence[Any], order: tf.Tensor | None, start: Any
) -> tf.data.Dataset:
    """Return (encoded image, label) in an order of the whole split, from an index on.

    The files, shuffled, are cut into blocks, and each block's examples are shuffled by themselves.
    So the files of earlier blocks need not be opened: only the earlier examples of the first block,
    at most 1 / `BLOCKS` of the split or one file, are read and left out. Without shuffling a block
    is one file, in which earlier examples are skipped.

    Args:
        builder: of the data set.
        parts: the split's files and what to read of each, as TFDS describes them.
        order: the key of the shuffled order, int64 [2]; None for the files' own order.
        start: the index of the first example to return, int64 [].
    """
    files = tf.constant([str(part.filename) for part in parts])
    skip = tf.constant([part.skip for part in parts], tf.int64)
    take = tf.constant([part.take for part in parts], tf.int64)
    at_once = 1
    if order is not None:
        places = tf.random.experimental.stateless_shuffle(tf.range(len(parts)), seed=order)
        files, skip, take = (tf.gather(values, places) for values in (files, skip, take))
        at_once = min(max(len(parts) // BLOCKS, 1), FILES_AT_ONCE)
    blocks = -(-len(parts) // at_once)
    starts = tf.cumsum(take, exclusive=True)[::at_once]
    first = tf.searchsorted(starts, [start], side="right", out_type=tf.int64)[0] - 1

    def open_file(file: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(file).skip(skip).take(take)

    def open_block(number: tf.Tensor) -> tf.data.Dataset:
        left_out = tf.maximum(tf.cast(start, tf.int64) - starts[number], 0)
        if order is None:
            return open_file(files[number], skip[number] + left_out, take[number] - left_out)
        block = slice(number * at_once, (number + 1) * at_once)
        records = tf.data.Dataset.from_tensor_slices((files[block], skip[block], take[block]))
        return (
            records.interleave(
                open_file,
                cycle_length=at_once,
                num_parallel_calls=at_once,
                deterministic=True,
            )
            .shuffle(
                SHUFFLE_BUFFER,
                seed=order[0] * 1_000_003 + order[1] * 1_009 + number,
                reshuffle_each_iteration=False,
            )
            .skip(left_out)
        )

    records = tf.data.Dataset.range(first, blocks).flat_map(open_block)
    return records.map(lambda record: _parse(builder, record), num_parallel_calls=available_cores())


def _parse(builder: tfds.core.DatasetBuilder, record: tf.Tensor) -> Pair:
    """Return a record's image, still encoded, and label."""
    example: dict[str, Any] = builder.info.features.deserialize_example(
        record, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return example["image"], example["label"]
