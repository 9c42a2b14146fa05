"""What a net costs: parameters, multiply-adds and activation memory, counted from its layers."""

import math
import re
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


def stage_costs(model: keras.Model) -> list[tuple[str, tuple[int, ...], Cost]]:
    """Count a net's stages in the order of their first layer, and last the `total`.

    Returns:
        For each stage its name, the shape of its last layer's output, and its cost. Layers are of
        one stage whose names begin alike: `stage1_block2_conv1` is of `stage1`, `inception_3a_1x1`
        of `inception_3a`.
    """
    stages: dict[str, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            stages.setdefault(stage_of(layer.name), []).append(layer)
    rows = [
        (stage, tuple(layers[-1].output.shape[1:]), sum(map(cost_of_layer, layers), Cost(0, 0, 0)))
        for stage, layers in stages.items()
    ]
    return [*rows, ("total", (), cost(model))]


def stage_of(layer_name: str) -> str:
    """Return the part of a layer's name that names its stage."""
    match = re.match(
        r"inception_[0-9][a-e]|(logits_)?aux[0-9]+|stage[0-9]+|[a-z]+[0-9]*", layer_name
    )
    stage = match[0] if match else layer_name
    return {
        "logits": "classifier",
        "main": "classifier",
        "dropout": "classifier",
        "avg": "classifier",
    }.get(stage, stage.removeprefix("logits_"))
