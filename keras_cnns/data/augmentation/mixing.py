"""Targets: one-hot, smoothed, and mixed with the target of another image."""

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

_QUANTILES = 4096


def smooth(labels: tf.Tensor, classes: int, smoothing: float) -> tf.Tensor:
    """Return (1 - smoothing) * one-hot + smoothing / classes: int64 [N] -> float32 [N, K].

    References:
        Szegedy et al. 2015, Rethinking the Inception architecture (arXiv:1512.00567), section 7.
    """
    return tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def mix(
    images: tf.Tensor,
    targets: tf.Tensor,
    draws: tf.Tensor,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image with the next image, the last image with the first, and the targets likewise.

    Args:
        images: pixels [N, H, W, C].
        targets: float32 [N, K].
        draws: random numbers in [0, 1), [N, 4]: the choice between MixUp and CutMix, lambda, and
            the vertical and horizontal position of CutMix's rectangle.
        mixup_alpha: MixUp draws lambda from Beta(alpha, alpha); 0 disables MixUp.
        cutmix_alpha: CutMix draws lambda from Beta(alpha, alpha); 0 disables CutMix. If both alphas
            are above 0, MixUp is applied to half of the images, and CutMix to the other half.
    """
    others, other_targets = tf.roll(images, -1, axis=0), tf.roll(targets, -1, axis=0)
    results = []
    if mixup_alpha:
        results.append(mixup(images, others, beta(draws[:, 1], mixup_alpha)))
    if cutmix_alpha:
        results.append(cutmix(images, others, beta(draws[:, 1], cutmix_alpha), draws[:, 2:4]))
    mixed, lam = results[0]
    if len(results) == 2:
        is_mixup = draws[:, 0] < 0.5
        mixed = tf.where(is_mixup[:, None, None, None], mixed, results[1][0])
        lam = tf.where(is_mixup, lam, results[1][1])
    lam = lam[:, None]
    return mixed, lam * targets + (1 - lam) * other_targets


def mixup(images: tf.Tensor, others: tf.Tensor, lam: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return lambda * image + (1 - lambda) * other, and lambda (Zhang et al. 2017, equation 1)."""
    weight = lam[:, None, None, None]
    mixed = weight * tf.cast(images, tf.float32) + (1 - weight) * tf.cast(others, tf.float32)
    return tf.cast(tf.round(mixed), images.dtype), lam


def cutmix(
    images: tf.Tensor, others: tf.Tensor, lam: tf.Tensor, centre: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Paste a rectangle of the other image; return the mixed image and its lambda.

    The area of the rectangle is 1 - lambda times the area of the image. If the rectangle extends
    beyond the image, it is cut at the edge, and its area becomes smaller. The returned lambda is
    therefore the fraction of pixels that still show the first image.

    References:
        Yun et al. 2019, CutMix (arXiv:1905.04899), equations 1 and 2.
    """
    half = tf.sqrt(1 - lam)[:, None] / 2
    inside = inside_rectangle(
        images, tf.maximum(centre - half, 0.0), tf.minimum(centre + half, 1.0)
    )
    remaining = 1 - tf.reduce_mean(tf.cast(inside, tf.float32), axis=[1, 2, 3])
    return tf.where(inside, others, images), remaining


def beta(draws: tf.Tensor, alpha: float) -> tf.Tensor:
    """Transform uniformly distributed numbers to Beta(alpha, alpha): [N] -> [N]."""
    quantiles = betaincinv(alpha, alpha, np.linspace(0, 1, _QUANTILES + 1)).astype(np.float32)
    position = draws * _QUANTILES
    below = tf.cast(position, tf.int32)
    low, high = tf.gather(quantiles, below), tf.gather(quantiles, below + 1)
    return low + (position - tf.cast(below, tf.float32)) * (high - low)


def inside_rectangle(images: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
    """Return which pixels lie between two corners: bool [N, H, W, 1].

    Args:
        images: pixels [N, H, W, C]; only their size matters.
        start: the upper left corner, as fractions of height and width, [N, 2].
        stop: the lower right corner.
    """
    _, height, width, _ = images.shape

    def between(size: int, axis: int) -> tf.Tensor:
        edges = tf.cast(tf.round(tf.stack([start, stop])[:, :, axis, None] * size), tf.int32)
        return (tf.range(size) >= edges[0]) & (tf.range(size) < edges[1])

    return (between(height, 0)[:, :, None] & between(width, 1)[:, None, :])[..., None]
