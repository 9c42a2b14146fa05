"""Run a model forward and backward on a batch for measurements, without changing the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_cnns.keras_internals import flatten_layers, sublayers
from keras_cnns.training.backend import compile_function, compute_gradients
from keras_cnns.training.layer_outputs import observed
from keras_cnns.training.variables import fetch_variables

Tensors = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """The tensors of one pass: layer -> tensor, in the order in which the layers ran."""

    layers: dict[str, keras.layers.Layer]
    # Each layer's output, float32. If a layer is called repeatedly, this is its last output.
    outputs: Tensors
    # The gradient of the loss with respect to each kernel of every layer with kernels, float32.
    gradients: dict[str, list[Any]]


Measure = Callable[[Pass], Tensors]  # returns a dict: the name of each metric -> a scalar tensor


class Probe:
    """Run a model on a fixed batch as in training, and measure its outputs and gradients.

    Weights, statistics, seeds and metrics do not change. Therefore, a training with a probe ends
    with exactly the same weights as a training without a probe. If no registered measure needs
    gradients, the compiled pass omits the backward pass.

    Args:
        x: a batch of the model's inputs; 16 to 32 images are enough.
        y: its targets, as in `fit`.
    """

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y
        self.measures: list[Measure] = []
        self.forget()

    def add(self, measure: Measure) -> None:
        """Make each pass also compute `measure(pass)`, a pure function of tensors."""
        self.measures.append(measure)
        self.forget()

    def forget(self) -> None:
        """Drop the compiled pass and its results, for example after the model was recompiled."""
        self._model: keras.Model | None = None
        self._trainable: list[bool] = []
        self._latest: tuple[int, dict[str, float]] | None = None

    def run(self, model: keras.Model, step: int) -> dict[str, float]:
        """Run a compiled model on the batch, and return name -> metric.

        Args:
            model: the model after `step` training steps.
            step: number of steps; a second call with the same number returns the first result.
        """
        if self._latest is None or self._latest[0] != step or model is not self._model:
            self._latest = step, self._run(model)
        return self._latest[1]

    def _run(self, model: keras.Model) -> dict[str, float]:
        fetch_variables(model)
        # Whether a layer is frozen is a constant of the compiled pass.
        trainable = [layer.trainable for layer in leaf_layers(model).values()]
        if model is not self._model or trainable != self._trainable:
            self._model, self._trainable = model, trainable
            self._variables = model.variables
            self._layers = leaf_layers(model)
            owners = {name: kernels(layer) for name, layer in self._layers.items()}
            self._kernels = {name: found for name, found in owners.items() if found}
            self._compiled = compile_function(self._compute)
        values = [variable.value for variable in self._variables]
        x, y = keras.tree.map_structure(ops.convert_to_tensor, (self.x, self.y))
        metrics = ops.convert_to_numpy(self._compiled(values, x, y))
        return dict(zip(self._names, map(float, metrics), strict=True))

    def _compute(self, values: Sequence[Any], x: Any, y: Any) -> Any:
        """Return all metrics in one tensor, in the order of `self._names`."""
        kernel_ids = {id(kernel) for group in self._kernels.values() for kernel in group}
        kernel_indices = [i for i, each in enumerate(self._variables) if id(each) in kernel_ids]
        layer_names = {id(layer): name for name, layer in self._layers.items()}
        # The names of the layers in the order in which they ran. `loss` does not return them as the
        # keys of a dict, because JAX would sort these.
        names: list[str] = []

        def loss(kernel_values: Sequence[Any]) -> tuple[Any, list[Any]]:
            outputs: Tensors = {}

            def observe(layer: keras.layers.Layer, output: Any) -> None:
                if ops.is_tensor(output) and "float" in keras.backend.standardize_dtype(
                    output.dtype
                ):
                    outputs[layer_names[id(layer)]] = output

            current = list(values)
            for i, value in zip(kernel_indices, kernel_values, strict=True):
                current[i] = value
            state = zip(self._variables, current, strict=True)
            model: Any = self._model
            with keras.StatelessScope(state), observed(self._layers.values(), observe):
                predicted = model(x, training=True)
                value = model.compute_loss(x=x, y=y, y_pred=predicted, training=True)
            names[:] = outputs
            return value, list(outputs.values())

        gradients, layer_outputs = compute_gradients(loss, [values[i] for i in kernel_indices])
        outputs = dict(zip(names, layer_outputs, strict=True))
        gradient_of = {
            id(self._variables[i]): gradient
            for i, gradient in zip(kernel_indices, gradients, strict=True)
        }
        tensors = Pass(
            {name: self._layers[name] for name in outputs},
            {name: ops.cast(output, "float32") for name, output in outputs.items()},
            {
                name: [ops.cast(gradient_of[id(each)], "float32") for each in found]
                for name in outputs
                if (found := self._kernels.get(name))
            },
        )
        metrics = {k: v for measure in self.measures for k, v in measure(tensors).items()}
        self._names = tuple(metrics)
        return ops.stack(list(metrics.values())) if metrics else ops.zeros(0)


def leaf_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Return name -> layer, for the layers that have no sublayers; number repeated names."""
    layers: dict[str, keras.layers.Layer] = {}
    for layer in flatten_layers(model):
        if sublayers(layer) or isinstance(layer, keras.layers.InputLayer | keras.metrics.Metric):
            continue
        name, number = layer.name, 2
        while name in layers:
            name, number = f"{layer.name}_{number}", number + 1
        layers[name] = layer
    return layers


def kernels(layer: keras.layers.Layer) -> list[Any]:
    """Return a layer's weights of rank 2 or more, which excludes biases, scales and statistics."""
    return [each for each in layer.weights if len(each.shape) >= 2 and "float" in each.dtype]
