"""Splits by content: the hash of an image determines its split, so copies have the same split."""

import hashlib
from collections.abc import Iterable

import numpy as np

# Split -> range of `content_fraction`. If a data set lacks the split, this split is created from
# the training images whose content fraction lies in this range.
FRACTIONS = {"validation": (0.0, 0.1), "test": (0.1, 0.2)}
DIVIDED = ("train", "validation")  # the splits of `split_by_content`


def content_fraction(digest: str) -> float:
    """Return a number in [0, 1) for the SHA-256 of an image's content (hexadecimal digits)."""
    return int(digest[:8], 16) / 2**32


def split_by_fraction(fraction: float, held_out: Iterable[str]) -> str:
    """Return the split of an image whose content fraction is `fraction`.

    Args:
        fraction: see `content_fraction`.
        held_out: the missing splits, keys of `FRACTIONS`, that are created from the training split.
    """
    splits = (name for name in held_out if FRACTIONS[name][0] <= fraction < FRACTIONS[name][1])
    return next(splits, "train")


def split_of(image: np.ndarray) -> str:
    """Return an image's split, train or validation, which depends only on the image's levels.

    A grey image has the same split with one channel as with three equal channels.

    Args:
        image: uint8 [h, w] or [h, w, c].
    """
    is_grey = image.ndim == 2 or bool((image == image[..., :1]).all())
    levels = image[..., 0] if is_grey and image.ndim == 3 else image
    digest = hashlib.sha256(levels.tobytes()).hexdigest()
    return split_by_fraction(content_fraction(digest), ["validation"])


def split_by_content(images: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the indices of the training images and of the validation images, each int64 [M].

    About a tenth of the images are for validation, and equal images are in the same split.

    Args:
        images: uint8 [h, w] or [h, w, c] each.
    """
    splits = np.array([split_of(image) for image in images])
    return {split: np.flatnonzero(splits == split) for split in DIVIDED}
