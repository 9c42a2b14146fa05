"""Targets: one-hot, smoothed, and mixed with those of another image."""

from functools import partial

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

from keras_cnns.data.augmentation import rectangle

QUANTILES = 4096


def smooth(labels: tf.Tensor, classes: int, smoothing: float) -> tf.Tensor:
    """Return targets: 1 - smoothing for the class, and smoothing shared by all: [N] -> [N, K].

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
    """Mix each image, and its target, with the next one; the last with the first.

    Args:
        images: pixels [N, H, W, C].
        targets: [N, K].
        draws: random numbers in [0, 1), [N, 4]: which, share, down, right.
        mixup_alpha: of the Beta distribution that shares are from; 0 for no MixUp.
        cutmix_alpha: of CutMix; where both are above 0, each has half of the images.
    """
    ways = []
    if mixup_alpha:
        ways.append(partial(mixup, share=beta(draws[:, 1], mixup_alpha)))
    if cutmix_alpha:
        share = beta(draws[:, 1], cutmix_alpha)
        ways.append(partial(cutmix, share=share, centre=draws[:, 2:4]))
    others, other_targets = tf.roll(images, -1, axis=0), tf.roll(targets, -1, axis=0)
    results = [way(images, others) for way in ways]
    mixed, share = results[0]
    if len(results) == 2:
        first = draws[:, 0] < 0.5
        mixed = tf.where(first[:, None, None, None], mixed, results[1][0])
        share = tf.where(first, share, results[1][1])
    share = share[:, None]
    return mixed, share * targets + (1 - share) * other_targets


def mixup(images: tf.Tensor, others: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return share * image + (1 - share) * other, and the share (Zhang et al. 2017, equation 1)."""
    weight = share[:, None, None, None]
    mixed = weight * tf.cast(images, tf.float32) + (1 - weight) * tf.cast(others, tf.float32)
    return tf.cast(tf.round(mixed), images.dtype), share


def cutmix(
    images: tf.Tensor, others: tf.Tensor, share: tf.Tensor, centre: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Put a rectangle of the other image in; return the share that is left of the first.

    References:
        Yun et al. 2019, CutMix (arXiv:1905.04899), equations 1 and 2.
    """
    half = tf.sqrt(1 - share)[:, None] / 2
    inside = rectangle(images, tf.maximum(centre - half, 0.0), tf.minimum(centre + half, 1.0))
    left = 1 - tf.reduce_mean(tf.cast(inside, tf.float32), axis=[1, 2, 3])
    return tf.where(inside, others, images), left


def beta(draws: tf.Tensor, alpha: float) -> tf.Tensor:
    """Return samples of Beta(alpha, alpha) for uniform ones, by its quantiles: [N] -> [N]."""
    quantiles = betaincinv(alpha, alpha, np.linspace(0, 1, QUANTILES + 1)).astype(np.float32)
    place = draws * QUANTILES
    below = tf.cast(place, tf.int32)
    low, high = tf.gather(quantiles, below), tf.gather(quantiles, below + 1)
    return low + (place - tf.cast(below, tf.float32)) * (high - low)
