"""A batch on which a model runs forward and backward to be measured, and is left unchanged."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_cnns.training.variables import fetch_variables

Tensors = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """The tensors of one pass, by layer, in the order in which the layers ran."""

    layers: dict[str, keras.layers.Layer]
    outputs: Tensors  # of every layer, float32
    gradients: dict[str, list[Any]]  # of the loss by each kernel of a layer that has one, float32


Measure = Callable[[Pass], Tensors]  # name of a figure -> scalar tensor


class Probe:
    """Run a model on a fixed batch, as in training, and measure what happens inside.

    Weights, statistics, seeds and metrics do not change: training with a probe ends with the same
    bits as without. If no registered measure needs gradients, the compiled pass omits the backward
    pass.

    Args:
        x: a batch of the model's inputs; 16 to 32 images are enough.
        y: its targets, as `fit` takes them.
    """

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y
        self.measures: list[Measure] = []
        self.forget()

    def add(self, measure: Measure) -> None:
        """Let each pass also compute `measure(pass)`, a pure function of tensors."""
        self.measures.append(measure)
        self.forget()

    def forget(self) -> None:
        """Drop the compiled pass and its results, for example after the model was recompiled."""
        self._model: keras.Model | None = None
        self._latest: tuple[int, dict[str, float]] | None = None

    def run(self, model: keras.Model, step: int) -> dict[str, float]:
        """Run a compiled model on the batch and return all measures by name.

        Args:
            model: the model after `step` training steps.
            step: number of steps; a second call with the same number returns the same result.
        """
        if self._latest is None or self._latest[0] != step or model is not self._model:
            self._latest = step, self._run_now(model)
        return self._latest[1]

    def _run_now(self, model: keras.Model) -> dict[str, float]:
        fetch_variables(model)
        if model is not self._model:
            self._model = model
            self._variables = model.variables
            self._layers = leaf_layers(model)
            owners = {name: kernels(layer) for name, layer in self._layers.items()}
            self._kernels = {name: found for name, found in owners.items() if found}
            self._run = compiled(self._figures)
        values = [variable.value for variable in self._variables]
        figures = ops.convert_to_numpy(self._run(values, _tensors(self.x), _tensors(self.y)))
        return dict(zip(self._names, map(float, figures), strict=True))

    def _figures(self, values: Sequence[Any], x: Any, y: Any) -> Any:
        kernel_ids = {id(kernel) for group in self._kernels.values() for kernel in group}
        of_kernels = [i for i, each in enumerate(self._variables) if id(each) in kernel_ids]

        # Names leave the pass this way: JAX sorts what is a dict.
        names: list[str] = []

        def loss(kernel_values: Sequence[Any]) -> tuple[Any, list[Any]]:
            current = list(values)
            for i, value in zip(of_kernels, kernel_values, strict=True):
                current[i] = value
            state = zip(self._variables, current, strict=True)
            model: Any = self._model
            with keras.StatelessScope(state), _watched(self._layers) as outputs:
                predicted = model(x, training=True)
                value = model.compute_loss(x=x, y=y, y_pred=predicted, training=True)
            names[:] = outputs
            return value, list(outputs.values())

        gradients, watched = _gradients(loss, [values[i] for i in of_kernels])
        outputs = dict(zip(names, watched, strict=True))
        position = {id(self._variables[i]): n for n, i in enumerate(of_kernels)}
        seen = Pass(
            {name: self._layers[name] for name in outputs},
            {name: ops.cast(output, "float32") for name, output in outputs.items()},
            {
                name: [ops.cast(gradients[position[id(each)]], "float32") for each in found]
                for name in outputs
                if (found := self._kernels.get(name))
            },
        )
        figures = {k: v for measure in self.measures for k, v in measure(seen).items()}
        self._names = tuple(figures)
        return ops.stack(list(figures.values())) if figures else ops.zeros(0)


def leaf_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Return the layers that hold no others, by name; a second one of a name gets a number."""
    layers: dict[str, keras.layers.Layer] = {}
    for layer in model._flatten_layers(include_self=False):
        if layer._layers or isinstance(layer, keras.layers.InputLayer | keras.metrics.Metric):
            continue
        name, number = layer.name, 2
        while name in layers:
            name, number = f"{layer.name}_{number}", number + 1
        layers[name] = layer
    return layers


def kernels(layer: keras.layers.Layer) -> list[Any]:
    """Return a layer's weights of rank 2 or more: no biases, scales or statistics."""
    return [each for each in layer.weights if len(each.shape) >= 2 and "float" in each.dtype]


@contextmanager
def _watched(layers: dict[str, keras.layers.Layer]) -> Iterator[Tensors]:
    """Collect what layers return; of one that is called more than once, the last."""
    outputs: Tensors = {}

    def watch(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if keras.ops.is_tensor(output) and "float" in keras.backend.standardize_dtype(
                output.dtype
            ):
                outputs[name] = output
            return output

        return watched

    for name, layer in layers.items():
        # Past Keras' own __setattr__, which would track it.
        object.__setattr__(layer, "call", watch(name, layer.call))
    try:
        yield outputs
    finally:
        for layer in layers.values():
            object.__delattr__(layer, "call")


def _tensors(values: Any) -> Any:
    return keras.tree.map_structure(ops.convert_to_tensor, values)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors for the backend; torch runs it as it is."""
    result: Callable[..., Any] = function
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        result = tf.function(function, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        result = jax.jit(function)
    return result


def _gradients(
    loss: Callable[[Sequence[Any]], tuple[Any, list[Any]]], values: Sequence[Any]
) -> tuple[Sequence[Any], list[Any]]:
    """Return a loss's gradients by values, zeros where it does not depend, and what it watched."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(values)
            value, outputs = loss(values)
        unconnected = tf.UnconnectedGradients.ZERO
        return tape.gradient(value, values, unconnected_gradients=unconnected), outputs
    if backend == "jax":
        import jax

        gradients, outputs = jax.grad(loss, has_aux=True)(values)
        return gradients, outputs
    import torch

    leaves = [value.detach().requires_grad_() for value in values]
    # Dropout and shuffling share torch's generator, which is left as it was.
    with torch.random.fork_rng(), torch.enable_grad():
        value, outputs = loss(leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ], [output.detach() for output in outputs]
