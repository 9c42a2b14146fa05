"""The cost of a model: parameters, multiply-adds and activation memory, counted from its layers."""

import math
import re
from dataclasses import dataclass

import keras

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """The cost of one image in a model, or in a part of a model.

    Attributes:
        parameters: the number of trainable parameters.
        multiply_adds: the number of multiply-adds of convolutions and dense layers.
        activation_bytes: the size of all layers' outputs in float32, which a training step holds in
            memory.
    """

    parameters: int
    multiply_adds: int
    activation_bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.multiply_adds + other.multiply_adds,
            self.activation_bytes + other.activation_bytes,
        )


def _cost_of_layer(layer: keras.layers.Layer) -> Cost:
    """Return the cost of one layer of a functional model.

    Raises:
        ValueError: the layer's output has an unknown size.
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
    return Cost(parameters, multiply_adds, _FLOAT32_BYTES * math.prod(shape))


def cost(model: keras.Model) -> Cost:
    """Return the cost of a functional model: the sum over its layers.

    Raises:
        ValueError: a layer's output has an unknown size, because the model was built for images of
            any size.
    """
    layers = (each for each in model.layers if not isinstance(each, keras.layers.InputLayer))
    return sum(map(_cost_of_layer, layers), Cost(0, 0, 0))


def stage_costs(model: keras.Model) -> list[tuple[str, tuple[int, ...], Cost]]:
    """Return the costs of a model's stages, in the order of their first layers, and the total cost.

    A layer's name begins with the name of its stage: `stage1_block2_conv1` belongs to `stage1`,
    and `inception_3a_1x1` to `inception_3a`.

    Returns:
        For each stage, its name, the shape of its last layer's output, and its cost. The total is
        the last entry.
    """
    stages: dict[str, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            stages.setdefault(_stage_of(layer.name), []).append(layer)
    rows = [
        (stage, tuple(layers[-1].output.shape[1:]), sum(map(_cost_of_layer, layers), Cost(0, 0, 0)))
        for stage, layers in stages.items()
    ]
    return [*rows, ("total", (), cost(model))]


def _stage_of(layer_name: str) -> str:
    """Return the name of the stage that a layer belongs to."""
    match = re.match(
        r"inception_[0-9][a-e]|(logits_)?aux[0-9]+|stage[0-9]+|[a-z]+[0-9]*", layer_name
    )
    stage = match[0] if match else layer_name
    if stage in ("logits", "main", "dropout", "avg"):
        return "classifier"
    return stage.removeprefix("logits_")
