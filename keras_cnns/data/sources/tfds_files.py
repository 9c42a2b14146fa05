"""Read the files of TensorFlow Datasets; images stay encoded until they are needed."""

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
from keras_cnns.data.sources.base import ImageStream, IndexedImages, Pair, unknown_split
from keras_cnns.data.sources.digits import Digits

MEMORY_LIMIT = 2**30  # bytes of encoded images; a larger data set is read in the order of its files
_SHUFFLE_BUFFER = 10_000  # number of examples
_MAX_OPEN_FILES = 16
_MIN_BLOCKS = 16  # minimum number of blocks in an epoch, unless there are fewer files


@functools.cache
def open_builder(name: str) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set; download and prepare the files if necessary.

    Raises:
        ValueError: there is no data set of this name, or it does not hold labelled images.
    """
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        near = get_close_matches(name, {Digits.name, *tfds.list_builders()}, n=3)
        hint = f" Similar names: {', '.join(near)}." if near else ""
        # Keep only the first line of the error; the other lines list all data sets.
        reason = str(error).strip().partition("\n")[0] or "not found"
        raise ValueError(f"there is no data set {name!r} ({reason}).{hint}") from None
    features = builder.info.features
    expected = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(
        key in features and isinstance(features[key], kind) for key, kind in expected.items()
    ):
        raise ValueError(
            f"data set {name!r} has no features 'image' and 'label': it has {features}"
        )
    if builder.data_path.exists():
        return builder
    try:
        _prepare(builder)
    except OSError:
        # TFDS writes the files into a directory of another name, and then renames this directory.
        # Renaming fails if another process, such as the second one of `lab run`, was faster.
        if not builder.data_path.exists():
            raise
        return tfds.builder(name)
    return builder


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Download and prepare the files of a data set."""
    print(f"preparing the data set {builder.info.full_name} (only once)", file=sys.stderr)
    if not isinstance(builder, Digits):
        builder.download_and_prepare()
        return
    # Hide the progress, since this takes only seconds and downloads nothing.
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    finally:
        tfds.enable_progress_bar()


def open_images(name: str, split: str) -> IndexedImages | ImageStream:
    """Open a split of a data set; nothing is read yet.

    Array records are read one by one. If the TFRecord files have at most `MEMORY_LIMIT` bytes in
    total, the encoded images are read into memory when the first image is needed. Larger data sets
    become a stream.

    Raises:
        ValueError: there is no such data set or split, the split is empty, or the package that
            reads its files is not installed.
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
        return IndexedImages(count, _array_record_reader(builder, chosen.file_instructions))
    if builder.info.dataset_size > MEMORY_LIMIT:
        return ImageStream(count, functools.partial(_read_files, builder, chosen.file_instructions))

    @functools.cache
    def load() -> Pair:
        with tf.init_scope():  # outside the pipeline's graph, which is being traced
            return _read_into_memory(builder, split)

    def read(index: tf.Tensor) -> Pair:
        contents, labels = load()
        content = contents[index]
        return (decode(content) if content.dtype == tf.string else content), labels[index]

    return IndexedImages(count, read)


def list_files(name: str, split: str) -> list[str]:
    """Return the paths of the files that hold a split of a data set."""
    return [str(path) for path in open_builder(name).info.splits[split].filepaths]


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

    def read(index: tf.Tensor) -> Pair:
        record = tf.numpy_function(lambda i: records[int(i)], [index], tf.string, stateful=False)
        content, label = _parse(builder, tf.ensure_shape(record, ()))
        return decode(content), label

    return read


def _read_files(
    builder: tfds.core.DatasetBuilder, parts: Sequence[Any], order: tf.Tensor | None, start: Any
) -> tf.data.Dataset:
    """Return a dataset of (encoded image, label) that begins at an index in an epoch's order.

    The shuffled files are grouped into blocks, and the examples are shuffled within each block. The
    blocks before the index therefore need not be opened. In the block that contains the index, the
    examples before the index are read and dropped. A block contains at most 1 / `_MIN_BLOCKS` of
    the files, or one file. Without shuffling, each block is one file, whose examples before the
    index are skipped.

    Args:
        builder: the data set's builder.
        parts: the split's files and the range of examples in each, as TFDS describes them.
        order: the key of the shuffled order, int64 [2]; None for the order of the files.
        start: the index of the first example to return, int64 [].
    """
    files = tf.constant([str(part.filename) for part in parts])
    skip = tf.constant([part.skip for part in parts], tf.int64)
    take = tf.constant([part.take for part in parts], tf.int64)
    block_size = 1  # number of files
    if order is not None:
        permutation = tf.random.experimental.stateless_shuffle(tf.range(len(parts)), seed=order)
        files, skip, take = (tf.gather(values, permutation) for values in (files, skip, take))
        block_size = min(max(len(parts) // _MIN_BLOCKS, 1), _MAX_OPEN_FILES)
    blocks = -(-len(parts) // block_size)
    starts = tf.cumsum(take, exclusive=True)[::block_size]
    first = tf.searchsorted(starts, [start], side="right", out_type=tf.int64)[0] - 1

    def open_file(file: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(file).skip(skip).take(take)

    def open_block(block: tf.Tensor) -> tf.data.Dataset:
        dropped = tf.maximum(tf.cast(start, tf.int64) - starts[block], 0)
        if order is None:
            return open_file(files[block], skip[block] + dropped, take[block] - dropped)
        members = slice(block * block_size, (block + 1) * block_size)
        records = tf.data.Dataset.from_tensor_slices((files[members], skip[members], take[members]))
        return (
            records.interleave(
                open_file,
                cycle_length=block_size,
                num_parallel_calls=block_size,
                deterministic=True,
            )
            .shuffle(
                _SHUFFLE_BUFFER,
                seed=order[0] * 1_000_003 + order[1] * 1_009 + block,
                reshuffle_each_iteration=False,
            )
            .skip(dropped)
        )

    records = tf.data.Dataset.range(first, blocks).flat_map(open_block)
    return records.map(lambda record: _parse(builder, record), num_parallel_calls=available_cores())


def _parse(builder: tfds.core.DatasetBuilder, record: tf.Tensor) -> Pair:
    """Return the encoded image and the label of a record."""
    example: dict[str, Any] = builder.info.features.deserialize_example(
        record, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return example["image"], example["label"]
