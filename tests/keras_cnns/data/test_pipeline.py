"""The batches of an epoch depend on (seed, epoch, index) alone, wherever reading begins."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.data import Split, Splits, open_split
from keras_cnns.data.augmentation.randomness import Start, draw_uniform
from keras_cnns.data.pipeline import Part, keep_in_memory, make_split
from keras_cnns.data.sources import base
from keras_cnns.data.sources.base import ImageStream, IndexedImages, Pair
from keras_cnns.recipes import AugmentationConfig, DataConfig, load_recipe

DIGITS = load_recipe("digits-resnet20").data
SHAPES = replace(
    load_recipe("shapes-resnet18").data, image_size=16, resize_shorter=20, num_examples=50
)
EVERYTHING = AugmentationConfig(
    pad_and_crop=2,
    horizontal_flip=True,
    color_jitter=0.4,
    rand_augment_num_ops=2,
    random_erasing=0.5,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
    label_smoothing=0.1,
)
CASES = {
    "plain": AugmentationConfig(),
    "CIFAR": AugmentationConfig(pad_and_crop=2, horizontal_flip=True),
    "Inception": AugmentationConfig(inception_crop=True, horizontal_flip=True),
    "everything": EVERYTHING,
}


def collect(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    batches = list(dataset.as_numpy_iterator())
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))  # type: ignore


def same(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "augmentation",
    [
        # The parts of "everything" have their own cases; all together take 15 seconds.
        pytest.param(each, id=name, marks=[pytest.mark.soak] * (name == "everything"))
        for name, each in CASES.items()
    ],
)
def test_an_image_depends_on_seed_epoch_and_index(augmentation: AugmentationConfig) -> None:
    def split(batch_size: int = 8, seed: int = 1) -> Split:
        return open_split(
            SHAPES, "train", batch_size=batch_size, seed=seed, augmentation=augmentation
        )

    first = split()
    whole = collect(first.epoch(3))
    assert whole[0].shape == (50, 16, 16, 3)
    assert whole[0].dtype == np.uint8
    assert same(whole, collect(split().epoch(3)))
    assert same(tuple(each[16:] for each in whole), collect(first.epoch(3, start_step=2)))
    assert same(whole, collect(split(batch_size=12).epoch(3))), (
        "the images depend on the batch size"
    )
    assert not same(whole, collect(first.epoch(4)))
    assert not same(whole, collect(split(seed=2).epoch(3)))
    # The same images as steps of the whole training.
    continued = first.steps_from(2 * first.steps + 5).take(2 + first.steps)
    expected = [collect(first.epoch(2, start_step=5)), whole]
    assert same(
        collect(continued), tuple(np.concatenate(each) for each in zip(*expected, strict=True))
    )


def test_the_noise_is_independent_of_the_erased_rectangle() -> None:
    """The noise is drawn from another stream than the rectangles."""
    arguments: dict[str, Any] = {"batch_size": 50, "seed": 1}
    whole = collect(open_split(SHAPES, "train", **arguments).epoch(0))[0]
    erasing = AugmentationConfig(random_erasing=1.0)
    erased = collect(open_split(SHAPES, "train", **arguments, augmentation=erasing).epoch(0))[0]
    draws = draw_uniform(Start(1, 0, 0), 50, 16 * 16 * 3)
    of_the_draws = (draws.numpy().reshape(whole.shape) * 256).astype(np.uint8)
    assert np.mean((erased == of_the_draws)[erased != whole]) < 0.02  # 1 of 256 by chance


def test_an_epoch_has_every_image_once_in_its_own_order() -> None:
    split = open_split(DIGITS, "train", batch_size=100, seed=0)
    plain = collect(open_split(DIGITS, "train", batch_size=100).epoch(0))
    assert (split.num_examples, split.steps) == (1253, 13)
    orders = []
    for number in range(2):
        images, labels = collect(split.epoch(number))
        assert sorted(each.tobytes() for each in images) == sorted(e.tobytes() for e in plain[0])
        orders.append(labels)
    assert not np.array_equal(orders[0], orders[1])
    # The order is random: neighbours have the same label as often as by chance.
    assert np.mean(orders[0][1:] == orders[0][:-1]) == pytest.approx(0.1, abs=0.04)


def test_without_a_seed_nothing_is_shuffled_or_augmented() -> None:
    split = open_split(DIGITS, "test[:20]", batch_size=20, augmentation=EVERYTHING)
    assert same(collect(split.epoch(0)), collect(split.epoch(7)))
    assert split.epoch(0).element_spec[1].dtype == tf.int64
    targets = open_split(DIGITS, "test[:20]", batch_size=20, one_hot=True)
    labels = collect(split.epoch(0))[1]
    np.testing.assert_array_equal(collect(targets.epoch(0))[1], np.eye(10)[labels])


def jpegs(folder: Path, count: int) -> Callable[[tf.Tensor | None, Any], tf.data.Dataset]:
    """Return a stream of images in TFRecord files, each with its index as label and level."""
    paths = []
    for part in range(5):
        paths.append(str(folder / f"part-{part}"))
        with tf.io.TFRecordWriter(paths[-1]) as writer:
            for number in range(part, count, 5):
                image = tf.io.encode_png(tf.fill((8, 8, 3), tf.cast(number, tf.uint8)))
                writer.write(image.numpy())

    def encoded(order: tf.Tensor | None, start: Any) -> tf.data.Dataset:
        files = tf.constant(paths)
        if order is not None:
            files = tf.random.experimental.stateless_shuffle(files, seed=order)
        records = tf.data.Dataset.from_tensor_slices(files).interleave(
            tf.data.TFRecordDataset, cycle_length=5
        )
        if order is not None:
            records = records.shuffle(20, seed=order[0], reshuffle_each_iteration=False)
        pairs = records.map(lambda png: (png, tf.cast(tf.io.decode_png(png)[0, 0, 0], tf.int64)))
        return pairs.skip(start)

    return encoded


def test_a_stream_starts_anywhere_too(tmp_path: Path) -> None:
    tf.random.set_seed(0)  # as a training with seed 0 leaves it
    config = DataConfig("x", 8, 8, 3, (0.0,) * 3, (1.0,) * 3)
    stream = ImageStream(37, jpegs(tmp_path, 37))
    split = make_split(stream, config, 37, batch_size=5, seed=1, augmentation=CASES["CIFAR"])
    epochs = [collect(split.epoch(number)) for number in range(2)]
    for images, labels in epochs:
        assert sorted(labels) == list(range(37))
        np.testing.assert_array_equal(images.max(axis=(1, 2, 3)), labels)
    assert not np.array_equal(epochs[0][1], epochs[1][1])
    assert same(tuple(each[15:] for each in epochs[1]), collect(split.epoch(1, start_step=3)))
    later = collect(split.steps_from(6).take(4))
    expected = [np.concatenate([a[30:], b[:10]]) for a, b in zip(*epochs, strict=True)]
    assert same(later, tuple(expected))


@pytest.mark.parametrize("augmentation", [CASES["CIFAR"], EVERYTHING])
def test_the_parts_of_a_streamed_batch_are_the_batch(
    augmentation: AugmentationConfig, tmp_path: Path
) -> None:
    config = DataConfig("x", 8, 8, 3, (0.0,) * 3, (1.0,) * 3)
    stream = ImageStream(37, jpegs(tmp_path, 37))
    options: dict[str, Any] = {"batch_size": 8, "seed": 1, "augmentation": augmentation}
    whole = make_split(stream, config, 37, **options)
    parts = [make_split(stream, config, 37, **options, part=Part(k, 2, 4)) for k in range(2)]
    for batch, *read in zip(whole.epoch(1), *(each.epoch(1) for each in parts), strict=True):
        for number in (0, 1):
            arrays = [np.asarray(each[number]) for each in read]
            # The last batch has 5 images, which do not divide by 4: every process reads all.
            for array in [np.concatenate(arrays)] if len(batch[0]) == 8 else arrays:
                np.testing.assert_array_equal(array, batch[number])


def test_pixels_in_memory_are_those_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {"batch_size": 16, "seed": 1, "augmentation": EVERYTHING}
    kept = collect(open_split(SHAPES, "train", **arguments).epoch(1))
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)
    assert same(kept, collect(open_split(SHAPES, "train", **arguments).epoch(1)))


def test_a_split_decodes_nothing_before_its_first_batch_and_no_image_twice() -> None:
    decoded: list[int] = []

    def note(index: np.ndarray) -> np.ndarray:
        decoded.append(int(index))
        return index

    def read(index: tf.Tensor) -> Pair:
        label = tf.ensure_shape(tf.numpy_function(note, [index], tf.int64), ())
        return tf.fill((20, 20, 3), tf.cast(label, tf.uint8)), label

    images = IndexedImages(50, read)
    kept = replace(images, gather=keep_in_memory(images, SHAPES))
    splits = [
        make_split(kept, SHAPES, 50, batch_size=8, one_hot=one_hot) for one_hot in (False, True)
    ]
    assert decoded == []
    for split in (*splits, *splits):
        assert len(collect(split.epoch(0))[1]) == 50
    assert sorted(decoded) == list(range(50))
    decoded.clear()
    some = make_split(images, SHAPES, 50, batch_size=2)
    assert next(iter(some))[1].numpy().tolist() == [0, 1]
    assert len(decoded) < 30  # and what is prefetched
    decoded.clear()
    for batches in (some.epoch(0), some.epoch(0, start_step=20)):
        collect(batches)  # nothing of the next epoch is read ahead
    assert sorted(decoded) == sorted([*range(50), *range(40, 50)])


def test_splits_share_their_images_and_release_them_with_the_last_user() -> None:
    splits = Splits(DIGITS)
    one, other = (
        splits.open("test[:20]", batch_size=20, one_hot=one_hot) for one_hot in (False, True)
    )
    images, labels = collect(one.epoch(0))
    assert same(collect(other.epoch(0)), (images, np.eye(10)[labels]))
    (gather,) = splits._kept.values()
    alive = weakref.ref(gather)
    del splits, one, other, gather
    gc.collect()
    assert alive() is None
