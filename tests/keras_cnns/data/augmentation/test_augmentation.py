"""Each kind of augmentation follows its paper."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_cnns.data.augmentation import rand_augment
from keras_cnns.data.augmentation.batch import erase, shift_and_flip
from keras_cnns.data.augmentation.image import inception_crop, jitter_colors
from keras_cnns.data.augmentation.mixing import beta, cutmix, mix, mixup, smooth

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(1, 256, (200, 12, 10, 3)).astype(np.uint8)
DRAWS = GENERATOR.random((200, 5)).astype(np.float32)


def test_shift_and_flip_is_padding_cropping_and_mirroring() -> None:
    changed = shift_and_flip(IMAGES, DRAWS[:, :3], padding=2, flip=True).numpy()
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    corners, mirrored = set(), 0
    for image, draws, result in zip(padded, DRAWS, changed, strict=True):
        down, right = (int(draw * 5) for draw in draws[:2])
        expected = image[down : down + 12, right : right + 10]
        np.testing.assert_array_equal(result, expected[:, ::-1] if draws[2] >= 0.5 else expected)
        corners.add((down, right))
        mirrored += draws[2] >= 0.5
    assert len(corners) == 25
    assert 80 < mirrored < 120
    np.testing.assert_array_equal(shift_and_flip(IMAGES, DRAWS[:, :3]).numpy(), IMAGES)


def test_erasing_fills_a_rectangle_of_2_to_40_percent() -> None:
    large = np.ones((200, 50, 50, 1), np.uint8)
    erased = erase(large, DRAWS, np.zeros_like(large), probability=0.5).numpy()[..., 0]
    chosen = DRAWS[:, 0] < 0.5
    assert np.all(erased[~chosen] == 1)
    areas = 1 - erased[chosen].mean(axis=(1, 2))
    assert 0.01 < areas.min() < 0.06
    assert 0.3 < areas.max() < 0.42
    for image in erased[chosen]:
        rows, columns = np.where(image == 0)
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "not a rectangle"


def test_smoothed_targets_follow_szegedy() -> None:
    targets = smooth(tf.constant([2, 0]), 4, 0.1).numpy()
    np.testing.assert_allclose(targets, [[0.025, 0.025, 0.925, 0.025], [0.925] + [0.025] * 3])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_lambda_has_a_beta_distribution(alpha: float) -> None:
    lambdas = beta(tf.constant((np.arange(20_000, dtype=np.float32) + 0.5) / 20_000), alpha).numpy()
    assert lambdas.mean() == pytest.approx(0.5, abs=1e-3)
    assert lambdas.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.01)


def test_lambda_is_the_fraction_of_the_first_image() -> None:
    ones, zeros = np.full((50, 20, 20, 1), 200, np.uint8), np.zeros((50, 20, 20, 1), np.uint8)
    mixed, lam = mixup(ones, zeros, tf.constant(DRAWS[:50, 0]))
    np.testing.assert_allclose(mixed.numpy().mean(axis=(1, 2, 3)), 200 * lam.numpy(), atol=0.51)
    mixed, lam = cutmix(ones, zeros, tf.constant(DRAWS[:50, 0]), tf.constant(DRAWS[:50, 1:3]))
    np.testing.assert_allclose(mixed.numpy().mean(axis=(1, 2, 3)), 200 * lam.numpy(), rtol=1e-5)
    assert set(np.unique(mixed)) == {0, 200}


@pytest.mark.parametrize("alphas", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_each_image_is_mixed_with_the_next(alphas: tuple[float, float]) -> None:
    images = np.repeat(np.arange(8, dtype=np.uint8), 256 * 3).reshape(8, 16, 16, 3) * 30
    mixed, targets = mix(
        images, tf.eye(8), DRAWS[:8, :4], mixup_alpha=alphas[0], cutmix_alpha=alphas[1]
    )
    levels = np.arange(8) * 30
    for index, (image, target) in enumerate(zip(mixed.numpy(), targets.numpy(), strict=True)):
        assert target.sum() == pytest.approx(1)
        assert set(np.flatnonzero(target)) <= {index, (index + 1) % 8}
        assert image.mean() == pytest.approx(target @ levels, abs=0.51)


def test_an_inception_crop_is_8_to_100_percent_of_the_area() -> None:
    # The channels hold the row and the column of each pixel.
    rows, columns = np.mgrid[0:200, 0:200]
    image = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    areas, ratios = [], []
    for number in range(60):
        crop = inception_crop(image, (100, 100), tf.constant([number, 7])).numpy().astype(float)
        assert crop.shape == (100, 100, 3)
        height, width = (np.ptp(crop[..., c]) for c in (0, 1))
        areas.append(height * width / 200**2)
        ratios.append(width / height)
    assert 0.07 < min(areas) < 0.09
    assert 0.75 < max(areas) <= 1
    assert 0.7 < min(ratios) < 0.9
    assert 1.1 < max(ratios) < 1.4


def test_jitter_changes_colours_within_its_range() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    levels = [
        jitter_colors(grey, 0.2, tf.constant([[n, 1], [n, 2], [n, 3]])).numpy().mean()
        for n in range(40)
    ]
    assert 100 - 52 <= min(levels) < 80
    assert 120 < max(levels) <= 100 + 52
    assert jitter_colors(IMAGES[0][..., :1], 0.4, tf.zeros((3, 2), tf.int32)).shape == (12, 10, 1)


def pillow(operation: Any) -> np.ndarray:
    return np.asarray(operation(Image.fromarray(IMAGES[0])), np.float32)


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("identity", 0.5, IMAGES[0]),
        ("auto_contrast", 0.5, pillow(ImageOps.autocontrast)),
        ("equalize", 0.5, pillow(ImageOps.equalize)),
        ("posterize", -1.0, pillow(lambda image: ImageOps.posterize(image, 4))),
        ("solarize", 0.5, pillow(lambda image: ImageOps.solarize(image, 128))),
        ("brightness", -1.0, IMAGES[0] * 0.1),
        ("translate_x", 0.0, IMAGES[0]),
        ("rotate", 0.0, IMAGES[0]),
        ("shear_y", 0.0, IMAGES[0]),
        ("sharpness", 0.0, IMAGES[0]),
        ("color", 0.0, IMAGES[0]),
        ("contrast", 0.0, IMAGES[0]),
    ],
)
def test_operations_equal_pillow(name: str, strength: float, expected: np.ndarray) -> None:
    image = tf.constant(IMAGES[0], tf.float32)
    result = rand_augment.OPERATIONS[name](image, tf.constant(strength))
    np.testing.assert_allclose(result.numpy(), expected, atol=1.01)


def test_rand_augment_draws_all_operations() -> None:
    image = tf.constant(IMAGES[1])
    results = {
        rand_augment.rand_augment(image, 1, 9.0, tf.constant([n, 5])).numpy().tobytes()
        for n in range(80)
    }
    # Seven operations do not depend on the drawn direction.
    assert len(results) >= len(rand_augment.OPERATIONS)
