"""Weights of classes and balanced sampling: by hand, and through the pipeline."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.data import Split, Splits
from keras_cnns.data.augmentation.batch import augment_batch
from keras_cnns.data.augmentation.randomness import Start
from keras_cnns.data.class_balance import (
    BalancedOrder,
    compute_weights,
    rare_classes,
    read_class_indices,
)
from keras_cnns.data.sources import tfds_files
from keras_cnns.data.sources.base import ImageStream, IndexedImages
from keras_cnns.recipes import AugmentationConfig, ClassBalanceConfig, load_recipe

DIGITS = load_recipe("digits-resnet20").data
COUNTS = (40, 7, 1, 9)
CLASSES = np.repeat(np.arange(len(COUNTS)), COUNTS)
SIZE = len(CLASSES)


def images_of(order: BalancedOrder, epoch: int, seed: int = 5) -> np.ndarray:
    return np.asarray(order.at(tf.range(SIZE, dtype=tf.int64), seed, tf.constant(epoch, tf.int64)))


def test_rare_classes_have_less_than_a_quarter_of_the_largest() -> None:
    assert rare_classes({"a": 100, "b": 25, "c": 24, "d": 1}) == ["c", "d"]
    assert rare_classes({}) == []


def test_weights_are_those_of_the_paper() -> None:
    inverse = compute_weights(CLASSES, 4, "inverse", 0.999)
    np.testing.assert_allclose(inverse, [1 / n for n in COUNTS], rtol=1e-6)
    beta = 0.9
    effective = compute_weights(CLASSES, 4, "effective_number", beta)
    np.testing.assert_allclose(effective, [(1 - beta) / (1 - beta**n) for n in COUNTS], rtol=1e-6)
    np.testing.assert_allclose(compute_weights(CLASSES, 4, "effective_number", 0.0), 1)


def test_every_class_appears_equally_often_and_every_image_of_a_class() -> None:
    order, epochs = BalancedOrder(CLASSES), 20
    used = np.zeros(SIZE, int)
    for epoch in range(epochs):
        chosen = images_of(order, epoch)
        assert sorted(np.bincount(CLASSES[chosen])) == [14, 14, 14, 15]  # of 57 images
        used += np.bincount(chosen, minlength=SIZE)
    for label in range(len(COUNTS)):
        times = used[label == CLASSES]
        assert times.max() - times.min() <= 1
        assert times.sum() in (14 * epochs, 15 * epochs)


def test_an_order_depends_on_seed_epoch_and_index() -> None:
    order = BalancedOrder(CLASSES)
    whole = images_of(order, 3)
    parts = [tf.range(*each, dtype=tf.int64) for each in ((0, 10), (10, SIZE))]
    found = np.concatenate([order.at(part, 5, tf.constant(3, tf.int64)) for part in parts])
    np.testing.assert_array_equal(found, whole)
    assert not np.array_equal(images_of(order, 4), whole)
    assert not np.array_equal(images_of(order, 3, seed=6), whole)


def test_counting_the_classes_decodes_no_image() -> None:
    decoded: list[int] = []

    def decode(index: np.ndarray) -> np.ndarray:
        decoded.append(int(index))
        return np.zeros((4, 4, 1), np.uint8)

    def read(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.numpy_function(decode, [index], tf.uint8, stateful=False), index % 3

    found = read_class_indices(IndexedImages(7, read))
    np.testing.assert_array_equal(found, [0, 1, 2, 0, 1, 2, 0])
    stream = ImageStream(
        7, lambda order, start: tf.data.Dataset.range(start, 7).map(lambda i: (b"", i % 3))
    )
    np.testing.assert_array_equal(read_class_indices(stream), found)
    assert decoded == []


def open_uneven(augmentation: AugmentationConfig, **balance: Any) -> Split:
    """Open 40 digits, of which some classes have more than others."""
    return Splits(DIGITS).open(
        "train[:40]",
        batch_size=16,
        seed=1,
        augmentation=augmentation,
        class_balance=ClassBalanceConfig(**balance),
        one_hot=True,
    )


MIXED = AugmentationConfig(mixup_alpha=0.4, label_smoothing=0.1)


def collect(split: Split, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    batches = list(split.epoch(1, start).as_numpy_iterator())
    images, targets = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images, targets


def test_weights_multiply_smoothed_targets_before_they_are_mixed() -> None:
    labels = np.array([3, 0, 1, 0, 2])
    images = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4, 1)
    weights = np.array([0.5, 1, 2, 8], np.float32)

    def augment(config: AugmentationConfig, weights: np.ndarray | None) -> np.ndarray:
        start = Start(1, 0, 0)
        pair = tf.constant(images), tf.constant(labels)
        _, targets = augment_batch(*pair, config, start, classes=4, class_weights=weights)
        return np.asarray(targets)

    smooth = replace(MIXED, mixup_alpha=0.0)
    plain = augment(smooth, None)
    np.testing.assert_allclose(augment(smooth, weights), plain * weights[labels][:, None])
    # Mixed: lambda * (weight * target) + (1 - lambda) * (other weight * other target).
    others, other_plain = np.roll(labels, -1), np.roll(plain, -1, axis=0)
    difference = plain - other_plain
    index = np.abs(difference).argmax(axis=1)
    rows = np.arange(5)
    lam = (augment(MIXED, None) - other_plain)[rows, index] / difference[rows, index]
    lam = lam[:, None]
    expected = lam * (weights[labels][:, None] * plain) + (1 - lam) * (
        weights[others][:, None] * other_plain
    )
    np.testing.assert_allclose(augment(MIXED, weights), expected, rtol=1e-4)
    assert np.ptp(lam) > 0.1


@pytest.mark.parametrize("balance", [{"weights": "inverse"}, {"balanced_sampling": True}])
def test_an_epoch_can_be_read_from_any_step(balance: dict[str, Any]) -> None:
    split = open_uneven(MIXED, **balance)
    for whole, part in zip(collect(split), collect(split, 1), strict=True):
        np.testing.assert_array_equal(whole[16:], part)


def test_a_split_is_sampled_evenly_and_validation_is_not() -> None:
    _, targets = collect(open_uneven(AugmentationConfig(), balanced_sampling=True))
    assert (targets.sum(axis=0) == 4).all()
    splits = Splits(DIGITS)
    plain, balanced = (
        [*splits.open("test[:20]", batch_size=20, class_balance=each).epoch(0).as_numpy_iterator()]
        for each in (ClassBalanceConfig(), ClassBalanceConfig(balanced_sampling=True))
    )
    np.testing.assert_array_equal(plain[0][1], balanced[0][1])


def test_a_stream_is_weighted_and_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_files, "MEMORY_LIMIT", 0)
    splits = Splits(replace(DIGITS, train_split="train"))
    with pytest.raises(ValueError, match=r"digits is read in the order of its files"):
        splits.open(
            "train", batch_size=8, seed=0, class_balance=ClassBalanceConfig(balanced_sampling=True)
        )
    weighted = splits.open(
        "train", batch_size=8, seed=0, class_balance=ClassBalanceConfig(weights="inverse")
    )
    assert weighted._class_weights is not None
    np.testing.assert_allclose(weighted._class_weights, np.full(10, 1 / 125), rtol=0.05)
