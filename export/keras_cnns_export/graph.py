"""The graph that every format holds: raw pixels in, named outputs out, the Keras model between.

`images` uint8 [N, H, W, C] -> float32 0..255 -> network (inference) -> {"probabilities": [N, K]}
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnns_export.contract import COLOURS, TensorSpec
from keras_cnns_export.errors import ExportError, check_names

INPUT = "images"

Array = np.ndarray[Any, Any]
Predict = Callable[[Array], Mapping[str, Array]]  # images uint8 [N, H, W, C] -> named outputs

# Each named output, from the network's own output [N, K].
OUTPUTS: dict[str, Callable[[Any], Any]] = {
    "probabilities": lambda probabilities: tf.cast(probabilities, tf.float32),
}


@dataclasses.dataclass(frozen=True)
class ServingGraph:
    """A network with the signature that is served; make it by `serving_graph`."""

    network: Any  # keras.Model in float32: pixels 0..255 [N, H, W, C] -> probabilities [N, K]
    function: Any  # tf.function: images uint8 [N, H, W, C] -> dict of named outputs
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        _, height, width, channels = self.network.inputs[0].shape
        return height, width, channels

    @property
    def classes(self) -> int:
        """How many classes the probabilities are of."""
        return int(self.network.output.shape[-1])

    def reference(self) -> Predict:
        """What Keras itself answers; the formats are compared with this."""
        pixels = tf.TensorSpec((None, *self.image_shape), tf.float32)
        call = tf.function(
            lambda pixels: self.network(pixels, training=False),
            input_signature=[pixels],
            autograph=False,
        )
        return lambda images: {"probabilities": call(tf.cast(images, tf.float32)).numpy()}


def serving_graph(model: Any, outputs: Sequence[str] = ("probabilities",)) -> ServingGraph:
    """The serving graph of a Keras model.

    Args:
        model: pixels 0..255 [N, H, W, C] -> probabilities [N, K], or a dict of which "main" is
            kept: inference drops the auxiliary heads. One trained in mixed precision is exported
            as a clone in float32.
        outputs: names from `OUTPUTS`.

    Raises:
        ExportError: the model is not of that form, or an output is unknown.
    """
    check_names("output", outputs, OUTPUTS)
    network = _in_float32(_inference_network(model))
    shape = network.inputs[0].shape
    signature = [tf.TensorSpec((None, *shape[1:]), tf.uint8, name=INPUT)]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images: Any) -> dict[str, Any]:
        result = network(tf.cast(images, tf.float32), training=False)
        return {name: OUTPUTS[name](result) for name in outputs}

    results = serve.get_concrete_function().structured_outputs
    return ServingGraph(
        network=network,
        function=serve,
        inputs=tuple(_spec(spec.name, spec) for spec in signature),
        outputs=tuple(_spec(name, results[name]) for name in outputs),
    )


def _inference_network(model: Any) -> Any:
    """The model with its one output [N, K], after checks of its form."""
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"Keras runs on {keras.backend.backend()}; export with KERAS_BACKEND=tensorflow: "
            "a saved .keras file loads under any backend"
        )
    if not isinstance(model, keras.Model):
        raise ExportError(f"cannot export a {type(model).__name__}: give a keras.Model")
    try:
        inputs = model.inputs
        output = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    except (AttributeError, ValueError):  # Keras raises either, by the kind of model
        inputs = output = None
    if not inputs or output is None:
        raise ExportError(
            f"{model.name} has no fixed input: begin it with keras.Input((height, width, channels))"
        )
    shape = tuple(inputs[0].shape)
    if len(inputs) != 1 or len(shape) != 4 or None in shape[1:] or shape[3] not in COLOURS:
        given = ", ".join(str(list(tensor.shape)) for tensor in inputs)
        kinds = " or ".join(f"{number} ({name})" for number, name in COLOURS.items())
        raise ExportError(
            f"{model.name} takes {given}; it must take one batch of images [N, height, width, "
            f"channels] of a fixed size, with {kinds} channels"
        )
    if isinstance(output, dict):
        if "main" not in output:
            raise ExportError(f"{model.name} has the outputs {', '.join(output)}, but no 'main'")
        output = output["main"]
    sizes = list(getattr(output, "shape", ()))  # a list of outputs has none
    if len(sizes) != 2 or (sizes[1] or 0) < 2:
        raise ExportError(
            f"{model.name} gives {sizes or f'a {type(output).__name__}'}; it must give "
            "probabilities [N, classes] of at least 2 classes, or a dict of outputs with them as "
            "'main'"
        )
    return keras.Model(inputs, output, name=model.name)  # shares the layers, is not compiled


def _in_float32(model: Any) -> Any:
    """The model itself, or a clone in float32 of one in mixed or half precision."""
    if _is_float32(model):
        return model

    def clone(operation: Any) -> Any:
        config = operation.get_config()
        if isinstance(operation, keras.layers.Layer):  # else `a + b`, which has no policy
            config["dtype"] = "float32"
        return type(operation).from_config(config)

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for layers that a layer makes for itself
    try:
        network = keras.models.clone_model(model, clone_function=clone, recursive=True)
        network.set_weights(model.get_weights())
    except ValueError as error:
        raise ExportError(f"{model.name} cannot be cloned in float32: {error}") from error
    finally:
        keras.config.set_dtype_policy(policy)
    if not _is_float32(network):
        raise ExportError(
            f"{model.name} cannot be cloned in float32: a layer sets the policy of those in it; "
            "build the model in float32 and load the weights into it"
        )
    return network


def _is_float32(model: Any) -> bool:
    return all(layer.dtype_policy.name == "float32" for layer in model._flatten_layers())


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tensor.dtype.name, tuple(tensor.shape))
