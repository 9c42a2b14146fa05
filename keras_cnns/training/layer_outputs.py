"""Observe the outputs of layers while a model is called."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras


@contextmanager
def observed(
    layers: Iterable[keras.layers.Layer], observe: Callable[[keras.layers.Layer, Any], None]
) -> Iterator[None]:
    """Call `observe(layer, output)` after each call of one of the layers."""
    layers = list(layers)

    def wrap(layer: keras.layers.Layer) -> Callable[..., Any]:
        call = layer.call

        @functools.wraps(call)
        def observed_call(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            observe(layer, output)
            return output

        return observed_call

    for layer in layers:
        # With `layer.call = ...`, Keras' own __setattr__ would track the function.
        object.__setattr__(layer, "call", wrap(layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")
