"""A picture of the first images of a training, as the recipe augments them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from keras_cnns.files import replacing

_COUNT = 24  # number of images
_COLUMNS = 8
_CAPTIONS = "captions"  # the key of the text in the PNG file: a JSON list
_MIN_FRACTION = 0.01  # a caption omits the classes whose fraction of the target is lower


def write_augmented(path: Path, images: Any, targets: Any, labels: Sequence[str]) -> None:
    """Write the first images of a batch, side by side, as a PNG file.

    Args:
        path: the file.
        images: uint8 [N, H, W, C].
        targets: class indices [N], or distributions over the classes [N, K], or a dict with such
            targets for each output of the model.
        labels: the names of the K classes.
    """
    if isinstance(targets, dict):
        targets = next(iter(targets.values()))
    pixels, classes = np.asarray(images)[:_COUNT], np.asarray(targets)[:_COUNT]
    count, height, width, channels = pixels.shape
    rows = -(-count // _COLUMNS)
    sheet = np.full((rows * height, _COLUMNS * width, channels), 255, np.uint8)
    for index, image in enumerate(pixels):
        row, column = divmod(index, _COLUMNS)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    text = PngImagePlugin.PngInfo()
    text.add_text(_CAPTIONS, json.dumps([_describe(target, labels) for target in classes]))
    with replacing(path) as partial:
        Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(partial, pnginfo=text)


def read_augmented(path: Path, size: int) -> list[tuple[np.ndarray, str]]:
    """Return the images, uint8 [size, size, C], and the captions in a file from `write_augmented`.

    Returns:
        Pairs of an image and its caption; an empty list if there is no file, as in runs of earlier
        versions, or if another program wrote the file.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            pixels = np.asarray(image)
            captions = json.loads(getattr(image, "text", {})[_CAPTIONS])
    except (OSError, KeyError, ValueError):
        return []
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    found = []
    for index, caption in enumerate(captions):
        row, column = divmod(index, _COLUMNS)
        tile = pixels[row * size : (row + 1) * size, column * size : (column + 1) * size]
        found.append((tile, str(caption)))
    return found


def _describe(target: Any, labels: Sequence[str]) -> str:
    """Describe a target, int [] or float [K], by its class, or by two classes with fractions."""
    if target.ndim == 0:
        return labels[int(target)]
    target = target / target.sum()  # undo the multiplication by the class's weight
    order: list[int] = [k for k in np.argsort(-target).tolist() if target[k] >= _MIN_FRACTION]
    if target[order[0]] > 1 - _MIN_FRACTION:
        return labels[order[0]]
    # Label smoothing gives every class a small fraction, so only the largest fractions are named.
    return ", ".join(f"{labels[k]} {target[k]:.0%}" for k in order[:2])
