"""Check the input tensors and output names of a request against the graph."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.repository.manifest import Manifest, Tensor

_MAX_SEARCHED = 1024  # maximum number of values that are searched for an example of a wrong value
MAX_IMAGES = 1024  # maximum number of encoded images in a request; decoding enlarges them
_VALUES_AT_ONCE = 2**20  # number of values that are checked at a time; the check copies them
_MAX_PIXEL_BYTES = 2**29  # maximum size of a request's preprocessed images


def check_outputs(manifest: Manifest, names: Sequence[str]) -> None:
    """Check that each name is the name of an output.

    Raises:
        InvalidInputError: one of the names is not the name of an output.
    """
    known = [output.name for output in manifest.outputs]
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"there is no output {name!r:.80}; the outputs are {', '.join(known)}"
            )


def check_contents(manifest: Manifest, contents: Sequence[bytes]) -> None:
    """Check the number of encoded images.

    Raises:
        InvalidInputError: there is no image.
        InputTooLargeError: there are more than MAX_IMAGES images, or their pixels after
            preprocessing need more than _MAX_PIXEL_BYTES.
    """
    if not contents:
        raise InvalidInputError("there is no image to classify")
    if len(contents) == 1:
        return
    check_count(len(contents), max(1, min(MAX_IMAGES, _MAX_PIXEL_BYTES // pixel_bytes(manifest))))


def pixel_bytes(manifest: Manifest) -> int:
    """Return the size in bytes of one image in the graph's input."""
    return math.prod(size or 1 for size in manifest.input.shape)


def check_count(images: int, limit: int = MAX_IMAGES) -> None:
    """Raise InputTooLargeError if a request has too many encoded images."""
    if images > limit:
        raise InputTooLargeError(
            f"a request can have at most {limit:,} encoded images, not {images:,}; send several "
            "requests"
        )


def check_images(manifest: Manifest, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the only input as uint8 [N, H, W, C].

    Raises:
        InvalidInputError: a name, a type, a shape or a value does not fit the graph.
    """
    expected = manifest.input
    images = inputs.get(expected.name)
    if images is not None and len(inputs) == 1 and _is_batch(images, expected):
        return images
    wanted = _requirement(expected)
    check_names(manifest, inputs)
    images = inputs[expected.name]
    if images.shape[1:] != expected.shape[1:] or images.ndim != len(expected.shape):
        hint = "; to send one image, put it in a list" if images.shape == expected.shape[1:] else ""
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


def check_names(manifest: Manifest, names: Collection[str]) -> None:
    """Raise InvalidInputError unless the only name is that of the graph's input."""
    expected = manifest.input
    if set(names) != {expected.name}:
        given = ", ".join(sorted(names)) or "nothing"
        raise InvalidInputError(
            f"the only input must be {expected.name}, not {given:.200}; {_requirement(expected)}"
        )


def _requirement(expected: Tensor) -> str:
    """Return what the input must be, for the messages of errors."""
    return f"{expected.name} must be integers from 0 to 255, of shape {shape_text(expected)}"


def _check_floats(images: NDArray[Any], wanted: str) -> None:
    """Raise InvalidInputError unless all values are whole numbers in the range of pixels.

    Fractions indicate that the client has normalised the images.
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
            f"{wanted}, not floats from 0 to 1, which indicate a normalised image"
        )


def _is_batch(images: NDArray[Any], expected: Tensor) -> bool:
    """Return whether the images are a valid batch that needs no conversion."""
    shape = images.shape
    return (
        images.dtype == np.uint8
        and len(shape) == len(expected.shape)
        and shape[1:] == expected.shape[1:]
        and shape[0] > 0
    )


def _example(images: NDArray[Any]) -> str:
    """Return an example of a value that is not a pixel, among the first `_MAX_SEARCHED` values."""
    values = islice(images.flat, _MAX_SEARCHED)
    texts = [str(v[:40] if isinstance(v, str | bytes) else v) for v in values]
    return next((text for text in texts if not text.isdigit() or len(text) > 3), texts[0])


def shape_text(tensor: Tensor) -> str:
    """Return the shape in the notation `[N, 32, 32, 1]`."""
    return f"[{', '.join('N' if size is None else str(size) for size in tensor.shape)}]"
