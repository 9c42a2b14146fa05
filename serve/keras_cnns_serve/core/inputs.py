"""Check that a request's tensors and names are what the graph takes and gives."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.repository.manifest import Manifest, Tensor

MAX_LOOKED_AT = 1024  # values, for an example of what is wrong
MAX_IMAGES = 1024  # encoded ones in a request: small as they come, they are large when decoded
_VALUES_AT_ONCE = 2**20  # of which copies are made to check them
MAX_PIXEL_BYTES = 2**29  # of a request's images, decoded to what the graph takes


def check_outputs(manifest: Manifest, names: Sequence[str]) -> None:
    """Check that every name is an output's.

    Raises:
        InvalidInputError: One is not.
    """
    known = [output.name for output in manifest.outputs]
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"there is no output {name!r:.80}; there are {', '.join(known)}"
            )


def check_contents(manifest: Manifest, contents: Sequence[bytes]) -> None:
    """Check that there are encoded images, and not too many.

    Raises:
        InvalidInputError: there is none.
        InputTooLargeError: there are more than MAX_IMAGES, or than MAX_PIXEL_BYTES when decoded.
    """
    if not contents:
        raise InvalidInputError("there is no image to classify")
    if len(contents) == 1:
        return
    check_count(len(contents), max(1, min(MAX_IMAGES, MAX_PIXEL_BYTES // pixel_bytes(manifest))))


def pixel_bytes(manifest: Manifest) -> int:
    """Return the bytes of one image, decoded to what the graph takes."""
    return math.prod(size or 1 for size in manifest.input.shape)


def check_count(images: int, limit: int = MAX_IMAGES) -> None:
    """Raise InputTooLargeError if a request has more encoded images than it may have."""
    if images > limit:
        raise InputTooLargeError(
            f"a request may have {limit:,} encoded images, not {images:,}; send several requests"
        )


def check_images(manifest: Manifest, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the one input as uint8 [N, H, W, C].

    Raises:
        InvalidInputError: a name, a type, a shape or a value is not what the graph takes.
    """
    expected = manifest.input
    images = inputs.get(expected.name)
    if images is not None and len(inputs) == 1 and _is_batch(images, expected):
        return images
    wanted = f"{expected.name} takes integers from 0 to 255 of shape {shape_text(expected)}"
    if set(inputs) != {expected.name}:
        given = ", ".join(sorted(inputs)) or "nothing"
        raise InvalidInputError(f"the input must be {expected.name} alone, not {given}; {wanted}")
    images = inputs[expected.name]
    if images.shape[1:] != expected.shape[1:] or images.ndim != len(expected.shape):
        hint = "; put one image in a list" if images.shape == expected.shape[1:] else ""
        raise InvalidInputError(f"{wanted}, not of shape {list(images.shape)}{hint}")
    if not len(images):
        raise InvalidInputError(f"{wanted}, and N must be at least 1")
    if images.dtype.kind == "f":
        _check_floats(images, wanted)
        return images.astype(np.uint8)
    if images.dtype.kind not in "iu":
        raise InvalidInputError(f"{wanted}, not {_example(images)!r:.40}")
    for extreme in (images.min(), images.max()):
        if not 0 <= extreme <= 255:
            raise InvalidInputError(f"{wanted}, not {extreme}")
    return images.astype(np.uint8)


def _check_floats(images: NDArray[Any], wanted: str) -> None:
    """Raise InvalidInputError for fractions: they were normalised, or resized badly.

    Whole numbers are pixels in another type.
    """
    largest = 0.0
    at_once = max(1, _VALUES_AT_ONCE // math.prod(images.shape[1:]))
    for first in range(0, len(images), at_once):
        some = images[first : first + at_once]
        wrong = some[~((some >= 0) & (some <= 255) & (some == np.round(some)))]
        if len(wrong):
            raise InvalidInputError(
                f"{wanted}, not {wrong[0]}; the graph itself normalises them: send integers, "
                "e.g. image.astype('uint8').tolist()"
            )
        largest = max(largest, some.max())
    if 0 < largest <= 1:
        raise InvalidInputError(
            f"{wanted}, not floats of 0 and 1 alone, which are a normalised image's"
        )


def _is_batch(images: NDArray[Any], expected: Tensor) -> bool:
    """Return whether there is nothing to complain of, nor to convert."""
    shape = images.shape
    return (
        images.dtype == np.uint8
        and len(shape) == len(expected.shape)
        and shape[1:] == expected.shape[1:]
        and shape[0] > 0
    )


def _example(images: NDArray[Any]) -> str:
    """Return the first value that is no pixel, of the first ones: they may be millions."""
    values = islice(images.flat, MAX_LOOKED_AT)
    texts = [str(v[:40] if isinstance(v, str | bytes) else v) for v in values]
    return next((text for text in texts if not text.isdigit() or len(text) > 3), texts[0])


def shape_text(tensor: Tensor) -> str:
    """Return the shape as people write it: `[N, 32, 32, 1]`."""
    return f"[{', '.join('N' if size is None else str(size) for size in tensor.shape)}]"
