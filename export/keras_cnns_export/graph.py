"""The graph that every format holds: raw pixels in, named outputs out, the Keras model between.

`images` uint8 [N, H, W, C] -> float32 0..255 -> network (inference) -> {"probabilities": [N, K]}
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cnns.models.heads import deep_recursion
from keras_cnns_export.contract import TensorSpec
from keras_cnns_export.heads import with_outputs
from keras_cnns_export.network import prepared

INPUT = "images"

Array = np.ndarray[Any, Any]
Predict = Callable[[Array], Mapping[str, Array]]  # images uint8 [N, H, W, C] -> named outputs


@dataclasses.dataclass(frozen=True)
class ServingGraph:
    """A network with the signature that is served; make it by `serving_graph`."""

    network: Any  # keras.Model in float32: pixels 0..255 [N, H, W, C] -> dict of named outputs
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
        return int(self.network.output["probabilities"].shape[-1])

    def reference(self) -> Predict:
        """What Keras itself answers; the formats are compared with this."""
        pixels = tf.TensorSpec((None, *self.image_shape), tf.float32)
        call = tf.function(
            lambda pixels: self.network(pixels, training=False),
            input_signature=[pixels],
            autograph=False,
        )

        def predict(images: Array) -> Mapping[str, Array]:
            answers = call(tf.cast(images, tf.float32))
            return {name: value.numpy() for name, value in answers.items()}

        return predict


def serving_graph(
    model: Any,
    outputs: Sequence[str] = ("probabilities",),
    *,
    preprocess_input: str | None = None,
    temperature: float | None = None,
) -> ServingGraph:
    """The serving graph of a Keras model.

    Args:
        model: pixels 0..255 [N, H, W, C] -> probabilities [N, K], or a dict of which "main" is
            kept: inference drops the auxiliary heads unless they are among the outputs. One
            trained in mixed precision is exported as a clone in float32.
        outputs: names from `heads.OUTPUTS`; `probabilities` is always there.
        preprocess_input: a key of `network.PREPROCESS_INPUT`, for a model that takes what
            keras.applications' `preprocess_input` gives in place of pixels.
        temperature: that the logits are divided by, to calibrate the probabilities.

    Raises:
        ExportError: the model is not of that form, or an output is unknown.
    """
    network = with_outputs(prepared(model, preprocess_input), outputs, temperature)
    shape = network.inputs[0].shape
    signature = [tf.TensorSpec((None, *shape[1:]), tf.uint8, name=INPUT)]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images: Any) -> Any:
        return network(tf.cast(images, tf.float32), training=False)

    with deep_recursion():
        results = serve.get_concrete_function().structured_outputs
    return ServingGraph(
        network=network,
        function=serve,
        inputs=tuple(_spec(spec.name, spec) for spec in signature),
        outputs=tuple(_spec(name, results[name]) for name in network.output),
    )


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tensor.dtype.name, tuple(tensor.shape))
