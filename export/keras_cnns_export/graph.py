"""The graph that every format holds: from raw pixels through the Keras model to named outputs.

`images` uint8 [N, H, W, C] -> float32 0..255 -> network (inference) -> {"probabilities": [N, K]}
"""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cnns.models.heads import deep_recursion
from keras_cnns_export.contract import TensorSpec
from keras_cnns_export.errors import ExportError
from keras_cnns_export.heads import with_outputs
from keras_cnns_export.network import first_layer_with_nan, own_answers, prepared

INPUT = "images"
_XLA = "_XlaMustCompile"  # TensorFlow's attribute of a function with jit_compile, true or false
_TRACING = threading.RLock()  # held while a trace depends on `tf.config.run_functions_eagerly`

Array = np.ndarray[Any, Any]
Predict = Callable[[Array], Mapping[str, Array]]  # images uint8 [N, H, W, C] -> named outputs


@dataclasses.dataclass(frozen=True)
class ServingGraph:
    """A network with the signature that is served; `serving_graph` makes one."""

    network: Any  # keras.Model in float32: pixels 0..255 [N, H, W, C] -> dict of named outputs
    function: Any  # tf.function: images uint8 [N, H, W, C] -> dict of named outputs
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    own: "OwnAnswers | None" = None  # of a mixed-precision model

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        _, height, width, channels = self.network.inputs[0].shape
        return height, width, channels

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.network.output["probabilities"].shape[-1])

    def reference(self) -> Predict:
        """Return Keras' own answers, with which the formats are compared.

        The function raises ExportError, with the first layer's name, if an answer holds NaN.
        """
        call = _of_pixels(lambda pixels: self.network(pixels, training=False), self.image_shape)

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
class OwnAnswers:
    """What a mixed-precision model itself computes; its float32 copy is exported."""

    policy: str  # Keras' name of its precision: "mixed_bfloat16"
    predict: Predict  # images uint8 [N, H, W, C] -> {"probabilities": float32 [N, K]}


def serving_graph(
    model: Any,
    outputs: Sequence[str] = ("probabilities",),
    *,
    preprocess_input: str | None = None,
    temperature: float | None = None,
) -> ServingGraph:
    """Return the serving graph of a Keras model.

    Args:
        model: pixels 0..255 [N, H, W, C] -> probabilities [N, K], or a dict of which "main" is
            kept: inference drops the auxiliary heads unless they are among the outputs. One
            sigmoid unit, [N, 1], becomes two classes. A model in mixed precision is exported as a
            float32 copy.
        outputs: names from `heads.OUTPUTS`; `probabilities` is always there.
        preprocess_input: a key of `network.PREPROCESS_INPUT`, for a model whose input is the
            result of keras.applications' `preprocess_input`.
        temperature: the logits are divided by it, which calibrates the probabilities.

    Raises:
        ExportError: the model is not of that form, or an output is unknown.
    """
    network = with_outputs(prepared(model, preprocess_input), outputs, temperature)
    shape = network.inputs[0].shape
    signature = [tf.TensorSpec((None, *shape[1:]), tf.uint8, name=INPUT)]

    def serve(images: Any) -> Any:
        return network(tf.cast(images, tf.float32), training=False)

    with deep_recursion():
        function = _without_xla(serve, signature)
    results = function.get_concrete_function().structured_outputs
    return ServingGraph(
        network=network,
        function=function,
        inputs=tuple(_spec(spec.name, spec) for spec in signature),
        outputs=tuple(_spec(name, results[name]) for name in network.output),
        own=_own(model, shape[1:], preprocess_input, temperature),
    )


def _own(
    model: Any, shape: Sequence[int], preprocess_input: str | None, temperature: float | None
) -> OwnAnswers | None:
    own = own_answers(model, preprocess_input)
    if own is None:
        return None
    policy, answers = own
    call = _of_pixels(answers, shape)

    def predict(images: Array) -> Mapping[str, Array]:
        probabilities = call(images).numpy()
        if probabilities.shape[1] == 1:
            probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
        if temperature is not None:  # softmax(logits / T) is proportional to p^(1/T)
            probabilities = probabilities ** (1 / temperature)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
        return {"probabilities": probabilities}

    return OwnAnswers(policy, predict)


def _of_pixels(call: Callable[[Any], Any], shape: Sequence[int]) -> Callable[[Array], Any]:
    """Return a traced function of images uint8 [N, H, W, C] from one of pixels in float32."""
    pixels = tf.TensorSpec((None, *shape), tf.float32)
    function = tf.function(call, input_signature=[pixels], autograph=False)
    return lambda images: function(tf.cast(images, tf.float32))


def _without_xla(call: Callable[[Any], Any], signature: Sequence[Any]) -> Any:
    """Return the traced tf.function of `call`, without functions that XLA must compile.

    Keras compiles grouped convolutions, whose gradient TensorFlow lacks on a CPU. Converters do not
    know such functions, and TensorFlow Serving runs them only behind a flag; inlined into the graph
    they are plain operations. Only models with such functions are inlined, because inlining also
    switches AutoGraph off in all functions.

    `tf.config.run_functions_eagerly` inlines them, here and when the result is saved, which traces
    it once more. The switch is global: no other thread may trace or call a tf.function meanwhile.

    Raises:
        ExportError: a function was compiled and saved elsewhere, or needs AutoGraph, and so cannot
            be inlined.
    """

    def inlined(images: Any) -> Any:
        with _TRACING:
            before = tf.config.functions_run_eagerly()
            tf.config.run_functions_eagerly(True)  # within a trace: operations join its graph
            try:
                return call(images)
            except tf.errors.OperatorNotAllowedInGraphError as error:
                raise ExportError(
                    "a layer holds a function that XLA must compile (jit_compile=True; Keras' "
                    "grouped convolutions do), and a layer's tf.function has an `if`, `while` or "
                    "`for` on a tensor, which cannot be exported together: write it with "
                    "keras.ops.cond, keras.ops.while_loop or keras.ops.where"
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
                "a layer holds a loaded function that XLA must compile (jit_compile=True): "
                "converters and TensorFlow Serving do not run it; save it without jit_compile"
            )
    return function


def _library(function: Any) -> Sequence[Any]:
    """Return the definitions of the functions that a traced function calls, however deep."""
    definitions: Sequence[Any] = (
        function.get_concrete_function().graph.as_graph_def().library.function
    )
    return definitions


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tensor.dtype.name, tuple(tensor.shape))
