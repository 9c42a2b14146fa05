"""A folder of images with wrong labels, whose class names are hostile, and folds of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from PIL import Image

from keras_cnns.recipes import Recipe, parse_recipe

FORMULA, MARKUP, PLAIN = "=2+5", "<img src=x onerror=alert(1)>", "Mäntel"
COLOURS = {FORMULA: (200, 40, 40), MARKUP: (40, 200, 40), PLAIN: (40, 40, 200)}
EACH, SIZE, FOLDS = 24, 16, 2
# Files in the folder of a class to which they do not belong: the class of each file's colour
WRONG = {f"{FORMULA}/wrong-1.png": MARKUP, f"{MARKUP}/wrong-2.png": PLAIN}
COPY, NEAR = "copy of 00.png", "near 00.png"  # of the image 00.png in the same class


def fill(root: Path) -> Path:
    """Write images of one colour with noise, whose brightness is that of a pattern."""
    generator = np.random.default_rng(0)

    def draw(label: str) -> np.ndarray:
        pattern = generator.uniform(0.4, 1, (SIZE, SIZE, 1))
        return (pattern * COLOURS[label]).astype(np.uint8)

    for label in COLOURS:
        (root / label).mkdir(parents=True)
        for number in range(EACH):
            Image.fromarray(draw(label)).save(root / label / f"{number:02}.png")
    for name, label in WRONG.items():
        Image.fromarray(draw(label)).save(root / name)
    first = root / PLAIN / "00.png"
    first.with_name(COPY).write_bytes(first.read_bytes())
    brighter = np.asarray(Image.open(first)).astype(int) + 3
    Image.fromarray(brighter.clip(0, 255).astype(np.uint8)).save(first.with_name(NEAR))
    return root


def make_recipe(root: Path, **data: Any) -> Recipe:
    grey = [100.0] * 3
    return parse_recipe(
        {
            "model": {"name": tiny_model.NAME},
            "data": {
                **{"name": "folder", "path": str(root), "channels": 3, "mean": grey, "std": grey},
                **{"image_size": SIZE, "resize_shorter": SIZE, **data},
            },
            "optimizer": {"learning_rate": 0.02},
            "training": {"epochs": 3, "batch_size": 2},
        }
    )


def register(patch: pytest.MonkeyPatch) -> None:
    """Let trainings build the tiny model."""
    tiny_model.register(patch)


def names(files: Sequence[str], root: Path) -> list[str]:
    return [Path(file).relative_to(root).as_posix() for file in files]
