"""What a net costs: parameters, multiply-adds and activation memory, counted from its layers."""

import math
from dataclasses import dataclass

import keras

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """Of one image through a net, or through a part of one."""

    parameters: int  # trainable
    multiply_adds: int  # of convolutions and dense layers, as the literature counts
    activation_bytes: int  # of every layer's output in float32: what a training step keeps

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.multiply_adds + other.multiply_adds,
            self.activation_bytes + other.activation_bytes,
        )


def cost_of_layer(layer: keras.layers.Layer) -> Cost:
    """Count one layer of a functional model whose sizes are known.

    Raises:
        ValueError: a size of its output is not known; build the net with an input_shape.
    """
    shape = layer.output.shape[1:]
    if None in shape:
        raise ValueError(f"the output of {layer.name} has no fixed size: {tuple(shape)}")
    multiply_adds = 0
    if isinstance(layer, keras.layers.Conv2D):
        # The kernel is [height, width, channels / groups, filters].
        multiply_adds = math.prod(shape[:2]) * math.prod(layer.kernel.shape)
    elif isinstance(layer, keras.layers.Dense):
        multiply_adds = math.prod(shape[:-1]) * math.prod(layer.kernel.shape)
    parameters = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
    return Cost(parameters, multiply_adds, FLOAT32_BYTES * math.prod(shape))


def cost(model: keras.Model) -> Cost:
    """Count a functional model: the sum of its layers, the input left out."""
    layers = (each for each in model.layers if not isinstance(each, keras.layers.InputLayer))
    return sum(map(cost_of_layer, layers), Cost(0, 0, 0))
