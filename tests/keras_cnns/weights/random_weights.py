"""Random weights, determined by name, shape and seed, so that no file has to contain them.

The statistics of batch normalisation are random too: with means of 0 and variances of 1, a swap
of two of them would go unseen. The scales keep activations within a few powers of ten through 152
layers.
"""

import math
import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def random_tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Return a tensor of a checkpoint, float32; a counter, of shape (), as int64.

    Args:
        name: the tensor's, torch's `layer1.0.conv1.weight` or Keras' `conv1_conv/kernel`.
        shape: the shape in the file; the name determines which of its dimensions are inputs.
        seed: one seed for all tensors.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if not shape:
        return np.asarray(7, "int64")
    if name.endswith(("running_var", "moving_variance")):
        return random.uniform(0.5, 1.5, shape).astype("float32")
    if len(shape) > 1:
        fan_in = math.prod(shape[:-1] if name.endswith("/kernel") else shape[1:])
        return random.standard_normal(shape, "float32") * np.float32(math.sqrt(2 / fan_in))
    if name.endswith(("weight", "gamma")):
        return random.uniform(0.5, 1.0, shape).astype("float32")
    return random.standard_normal(shape, "float32") * np.float32(0.1)


def random_images(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Return images [N, H, W, C] of large patches with noise on them, each brighter than the last.

    Images of noise only would give nearly equal averages over pixels, and so nearly equal logits.
    """
    random = np.random.default_rng(seed)
    images, height, width, channels = shape
    patches = random.standard_normal((images, 4, 4, channels), "float32")
    patches = patches.repeat(-(-height // 4), axis=1).repeat(-(-width // 4), axis=2)
    noise = random.standard_normal(shape, "float32")
    brightness = 4.0 ** np.arange(images, dtype="float32").reshape(-1, 1, 1, 1)
    return brightness * (patches[:, :height, :width] + 0.5 * noise)


def assert_agree(answer: Any, expected: Any, tolerance: float) -> None:
    """Demand that two answers differ by no more than a fraction of the expected one's range."""
    answer, expected = np.asarray(answer), np.asarray(expected)
    span = float(expected.max() - expected.min())
    signal = float(np.abs(expected[0] - expected[-1]).max()) / span
    assert 1e-2 < span < 1e6, f"the activations have vanished or exploded: range {span}"
    assert signal > 0.1, f"the images hardly matter: their answers differ by {signal} of the range"
    worst = float(np.abs(answer - expected).max()) / span
    assert worst <= tolerance, f"off by {worst:.1e} of the range, {tolerance:.0e} allowed"
