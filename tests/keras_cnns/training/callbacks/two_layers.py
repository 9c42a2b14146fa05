"""A network of two layers for the tests of diagnostics; NumPy can compute all their results."""

from typing import Any

import keras
import numpy as np

RATE = 0.1


def make_model(**options: Any) -> keras.Model:
    """[N, 3] -> [N, 2]; hidden layer of 5 units with ReLU, of which the last is dead."""
    inputs = keras.Input((3,))
    x = keras.layers.Dense(5, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape))
    bias = np.array(model.get_layer("hidden").bias)
    bias[4] = -100
    model.get_layer("hidden").bias.assign(bias)
    model.compile(keras.optimizers.SGD(RATE), loss="mse", **options)
    return model


def make_data(samples: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(samples, 3)).astype("float32")
    return x, generator.normal(size=(samples, 2)).astype("float32")


def fit(model: keras.Model, *callbacks: Any, steps: int = 4, epochs: int = 1) -> dict[str, Any]:
    x, y = make_data(4 * steps)
    history = model.fit(
        x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )
    return dict(history.history)


def hidden(model: keras.Model, x: np.ndarray) -> np.ndarray:
    kernel, bias, *_ = model.get_weights()
    outputs: np.ndarray = np.maximum(x @ kernel + bias, 0)
    return outputs


def kernel_gradients(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return d mse / d kernel of both layers, by hand."""
    head, bias = model.get_weights()[2:]
    h = hidden(model, x)
    of_output = 2 * (h @ head + bias - y) / y.size
    return [x.T @ (of_output @ head.T * (h > 0)), h.T @ of_output]
