"""The graph that every format contains: from raw pixels through the network to named outputs.

`images` uint8 [N, H, W, C] -> float32 0..255 -> network (inference) -> {"probabilities": [N, K]}
"""

import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnns.keras_internals import flatten_layers
from keras_cnns.models.heads import deep_recursion
from keras_cnns_export.batches import Array, Batch, Predict
from keras_cnns_export.contract import Preprocessing, TensorSpec
from keras_cnns_export.errors import ExportError
from keras_cnns_export.network import (
    as_functional,
    first_layer_with_nan,
    lower_precision,
    prepare,
    preprocessed,
    with_outputs,
)
from keras_cnns_export.options import Quantization

_INPUT = "images"
# TensorFlow stores the argument `jit_compile` of a function, if given, in this attribute.
_XLA = "_XlaMustCompile"
# A thread holds this lock while it traces, because the trace depends on the global switch
# `tf.config.run_functions_eagerly`.
_TRACING = threading.RLock()


@dataclasses.dataclass(frozen=True)
class OwnAnswers:
    """The predictions of a mixed-precision model in its own precision.

    The export uses a float32 copy of the model, whose predictions can differ from these.
    """

    policy: str  # the name of the dtype policy in Keras, for example "mixed_bfloat16"
    predict: Predict  # images uint8 [N, H, W, C] -> {"probabilities": float32 [N, K]}


@dataclasses.dataclass(frozen=True)
class ServingGraph:
    """A network with its serving signature, created by `serving_graph`."""

    network: Any  # keras.Model in float32: pixels 0..255 [N, H, W, C] -> dict of named outputs
    function: Any  # tf.function: images uint8 [N, H, W, C] -> dict of named outputs
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    own: OwnAnswers | None = None  # None if the model computes in float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.network.inputs[0].shape
        return height, width, channels

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.network.output["probabilities"].shape[-1])

    def reference(self) -> Predict:
        """Return a function that computes the predictions of Keras for the comparison.

        The function raises ExportError if a prediction is NaN; the message names the first layer
        whose output is NaN.
        """
        call = _from_uint8(lambda pixels: self.network(pixels, training=False), self.image_shape)

        def predict(images: Array) -> Mapping[str, Array]:
            answers = {name: value.numpy() for name, value in call(images).items()}
            if any(np.isnan(value).any() for value in answers.values()):
                layer = first_layer_with_nan(self.network, tf.cast(images, tf.float32))
                raise ExportError(
                    f"{self.network.name} answers NaN; the first layer whose output holds NaN is "
                    f"{layer!r}"
                )
            return answers

        return predict


@dataclasses.dataclass(frozen=True)
class Source:
    """The graph and the data from which a format is written."""

    graph: ServingGraph
    labels: tuple[str, ...]  # the names of the K classes
    preprocessing: Preprocessing
    # The images on which int8 formats are calibrated.
    training_batches: Callable[[], Iterator[Batch]]
    name: str = "model"  # the model's name in its repository
    opset: int = 17  # version of ONNX's operator set
    quantization: Quantization = dataclasses.field(default_factory=Quantization)


def serving_graph(
    model: Any,
    outputs: Sequence[str] = ("probabilities",),
    *,
    preprocess_input: str | None = None,
    temperature: float | None = None,
) -> ServingGraph:
    """Return the serving graph of a Keras model.

    Args:
        model: a keras.Model from pixels, 0..255 [N, H, W, C], to probabilities [N, K], or to a dict
            that contains these probabilities under the key "main". Auxiliary heads are dropped
            unless `outputs` names them. One sigmoid unit, [N, 1], becomes two classes. A
            mixed-precision model is exported as a float32 copy.
        outputs: names from `network.OUTPUTS`; `probabilities` is always served.
        preprocess_input: a key of `network.PREPROCESS_INPUT`, for a model whose input is the
            result of keras.applications' `preprocess_input`.
        temperature: a number by which the logits are divided, to calibrate the probabilities.

    Raises:
        ExportError: the model does not map pixels to probabilities as described above, or an output
            is unknown.
    """
    network = with_outputs(prepare(model, preprocess_input), outputs, temperature)
    signature = [tf.TensorSpec((None, *network.inputs[0].shape[1:]), tf.uint8, name=_INPUT)]

    def serve(images: Any) -> Any:
        return network(tf.cast(images, tf.float32), training=False)

    with deep_recursion():
        function = _without_xla(serve, signature, network)
    results = function.get_concrete_function().structured_outputs
    return ServingGraph(
        network=network,
        function=function,
        inputs=tuple(_spec(spec.name, spec) for spec in signature),
        outputs=tuple(_spec(name, results[name]) for name in network.output),
        own=_own_answers(model, preprocess_input, temperature),
    )


def export_by_keras(graph: ServingGraph, path: Path, format: str) -> None:  # noqa: A002
    """Write the graph to `path` in a format of `keras.Model.export`.

    The written function maps `images`, uint8 [N, H, W, C], to the named outputs.
    """

    class Served(keras.Model):
        """A model that calls the graph.

        The network is an attribute of this model, so that Keras exports the network's variables.
        """

        def __init__(self) -> None:
            super().__init__()
            self.network = graph.network

        def call(self, images: Any) -> Any:
            return graph.function(images)

    served = Served()
    # Keras can export a model only after it was called.
    served(tf.zeros((1, *graph.image_shape), tf.uint8))
    signature = list(graph.function.input_signature)
    with _preserved_root_logger():
        served.export(str(path), format=format, input_signature=signature, verbose=False)


@contextlib.contextmanager
def _preserved_root_logger() -> Iterator[None]:
    """Restore the root logger after the block, because OpenVINO's converter changes it.

    Without this, the root logger would drop warnings after the conversion.
    """
    root = logging.getLogger()
    level, filters, handlers = root.level, [*root.filters], [*root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def _own_answers(
    model: Any, preprocess_input: str | None, temperature: float | None
) -> OwnAnswers | None:
    """Return the predictions of a mixed-precision model in its own precision.

    Return None if the model computes in float32.
    """
    policy = lower_precision(model)
    if policy is None:
        return None
    functional = as_functional(model)

    def main_output(pixels: Any) -> Any:
        outputs = functional(preprocessed(pixels, preprocess_input), training=False)
        return keras.ops.cast(outputs["main"], "float32")

    call = _from_uint8(main_output, functional.inputs[0].shape[1:])

    def predict(images: Array) -> Mapping[str, Array]:
        probabilities = call(images).numpy()
        if probabilities.shape[1] == 1:
            probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
        if temperature is not None:  # since softmax(logits / T) is proportional to p^(1/T)
            probabilities = probabilities ** (1 / temperature)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
        return {"probabilities": probabilities}

    return OwnAnswers(policy, predict)


def _from_uint8(call: Callable[[Any], Any], shape: Sequence[int]) -> Callable[[Array], Any]:
    """Return a tf.function that converts uint8 images [N, H, W, C] to float32 and calls `call`."""
    pixels = tf.TensorSpec((None, *shape), tf.float32)
    function = tf.function(call, input_signature=[pixels], autograph=False)
    return lambda images: function(tf.cast(images, tf.float32))


def _without_xla(call: Callable[[Any], Any], signature: Sequence[Any], network: Any) -> Any:
    """Return the traced tf.function of `call`, without functions that require compilation by XLA.

    `call` uses the network, whose grouped convolutions are traced with `_not_fused`.

    Keras compiles grouped convolutions with XLA, because TensorFlow lacks their gradient on a CPU.
    Converters do not support compiled functions, and TensorFlow Serving runs them only with a
    special flag. If such a function is inlined into the graph, plain operations remain. Inlining
    also switches AutoGraph off in all functions, so it is done only if the model has a compiled
    function.

    `tf.config.run_functions_eagerly` makes TensorFlow inline the functions while a graph is traced.
    The returned function sets this switch itself, because the function is traced again when it is
    saved. The switch is global: while it is on, no other thread may trace or call a tf.function.

    Raises:
        ExportError: a function cannot be inlined, because it was loaded from a file and XLA must
            compile it, or because it needs AutoGraph.
    """

    def inlined(images: Any) -> Any:
        with _TRACING:
            before = tf.config.functions_run_eagerly()
            tf.config.run_functions_eagerly(True)  # operations are still added to the traced graph
            try:
                with _not_fused(network):
                    return call(images)
            except tf.errors.OperatorNotAllowedInGraphError as error:
                raise ExportError(
                    "a layer has a function that XLA must compile (jit_compile=True, as in Keras' "
                    "grouped convolutions), and a layer's tf.function has an `if`, `while` or "
                    "`for` on a tensor; the export does not support both in one model: replace the "
                    "`if`, `while` or `for` by keras.ops.cond, keras.ops.while_loop or "
                    "keras.ops.where"
                ) from error
            finally:
                tf.config.run_functions_eagerly(before)

    with _TRACING:
        function = tf.function(call, input_signature=signature, autograph=False)
        if not any(_XLA in each.attr for each in _library(function)):
            return function
        function = tf.function(inlined, input_signature=signature, autograph=False)
        if any(each.attr[_XLA].b for each in _library(function)):
            raise ExportError(
                "a layer has a loaded function that XLA must compile (jit_compile=True), which "
                "converters and TensorFlow Serving do not support; save this function again "
                "without jit_compile, and load it"
            )
    return function


@contextlib.contextmanager
def _not_fused(network: Any) -> Iterator[None]:
    """Trace grouped convolutions within the block so that TensorFlow does not fuse them.

    TensorFlow fuses a convolution with batch normalisation and ReLU. On CPUs where it does not use
    oneDNN by default, such as those without AVX-512, the fused operation does not support groups
    ("Fused conv implementation does not support grouped convolutions for now"). An EnsureShape
    after a convolution, which computes nothing, prevents the fusion.
    """
    convolutions = [each for each in flatten_layers(network) if hasattr(each, "convolution_op")]
    grouped = [each for each in convolutions if each.groups > 1]

    def convolve(original: Callable[[Any, Any], Any], inputs: Any, kernel: Any) -> Any:
        result = original(inputs, kernel)
        return tf.ensure_shape(result, result.shape)

    for layer in grouped:
        layer.convolution_op = functools.partial(convolve, layer.convolution_op)
    try:
        yield
    finally:
        for layer in grouped:
            del layer.convolution_op


def _library(function: Any) -> Sequence[Any]:
    """Return the definitions of all functions that a traced function calls, even indirectly."""
    definitions: Sequence[Any] = (
        function.get_concrete_function().graph.as_graph_def().library.function
    )
    return definitions


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tensor.dtype.name, tuple(tensor.shape))
