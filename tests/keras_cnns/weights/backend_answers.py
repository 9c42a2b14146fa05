"""Compute three models' logits on the backend KERAS_BACKEND: `backend_answers.py OUT.npz`.

The weights are loaded from a file by `keras_cnns.weights`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import keras
import numpy as np
from random_weights import Array, random_images, random_tensor

from keras_cnns.models import build
from keras_cnns.weights import load

SIZES = {"resnet20": 32, "googlenet": 64, "resnet50": 64}


def zeros(self: Any, shape: tuple[int, ...], dtype: Any = None) -> Array:
    return np.zeros(shape, "float32")


def answer(name: str, directory: Path) -> Array:
    """Return the logits [2, 10] of a model with random weights."""
    shape = (SIZES[name], SIZES[name], 3)
    # JAX compiles the initializer for each shape, which takes a minute; load replaces the numbers.
    with mock.patch.object(keras.initializers.VarianceScaling, "__call__", zeros):
        model = build(name, input_shape=shape, classes=10, classifier_activation=None)
    file = directory / f"{name}.h5"
    with h5py.File(file, "w") as content:
        for layer in model.layers:
            for variable in layer.weights:
                tensor = f"{layer.name}/{variable.name}"
                content[tensor] = random_tensor(tensor, tuple(variable.shape))
    load(model, file)
    return np.asarray(model.predict(random_images((2, *shape)), verbose=0))


def answer_all() -> dict[str, Array]:
    """Return the logits by the models' names."""
    with tempfile.TemporaryDirectory() as directory:
        return {name: answer(name, Path(directory)) for name in SIZES}


if __name__ == "__main__":
    np.savez(sys.argv[1], **answer_all())  # type: ignore[arg-type]
