"""The named outputs of a network, each derived from its classifier.

The classifier is what a network ends in: a global average pool, optionally dropout, a Dense layer
and a softmax. `features` and `cam` need all of it, `logits` only the softmax.

A network that ends in one sigmoid unit, p = sigmoid(z), is served with two classes: probabilities
[1 - p, p] and logits [0, z], whose softmax they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_cnns_export.errors import ExportError, check_names

TOP_K = 5


class ClassActivationMap(layers.Layer):
    """Where the network saw the most probable class (Zhou et al. 2016, equation 2), unscaled.

    The average pool is linear in the feature map, so the class's weights applied at every position
    show how much of the logit comes from there: the map's mean is the logit minus its bias. Of one
    sigmoid unit the second class has the unit's weights and the first their negatives.
    """

    def __init__(self, classifier: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classifier = classifier

    def call(self, feature_map: Any, probabilities: Any) -> Any:
        """[N, h, w, D] and [N, K] -> [N, h, w]."""
        of_class = ops.transpose(self.classifier.kernel)
        if of_class.shape[0] == 1:
            of_class = ops.concatenate([-of_class, of_class])
        _, first = ops.top_k(probabilities, 1)  # Keras' argmax has no form in ONNX
        weights = ops.take(of_class, first[:, 0], axis=0)
        # Channels first, as ONNX has them: the converter's own transpose and this one cancel.
        maps = ops.transpose(feature_map, (0, 3, 1, 2))
        return ops.sum(maps * weights[:, :, None, None], axis=1)


class Heads:
    """The tensors of a network from which its named outputs are made.

    Raises:
        ExportError: the network has one output unit, and it is no sigmoid.
    """

    def __init__(self, network: Any, temperature: float | None = None) -> None:
        self.network = network
        self._probabilities = network.output["main"]
        self._logits: Any = None
        if self._probabilities.shape[-1] == 1:
            self._check_sigmoid()
            p = self._probabilities
            self._probabilities = ops.concatenate([1 - p, p], axis=1)
        if temperature is not None:
            self._logits = layers.Rescaling(1 / temperature, name="temperature")(self._last())
            self._probabilities = layers.Softmax(name="calibrated")(self._logits)

    def probabilities(self) -> dict[str, Any]:
        """[N, K]."""
        return {"probabilities": self._probabilities}

    def logits(self) -> dict[str, Any]:
        """[N, K], whose softmax the probabilities are."""
        return {"logits": self._last() if self._logits is None else self._logits}

    def top_k(self) -> dict[str, Any]:
        """The most probable classes, [N, k] each, k the smaller of 5 and K; the first first."""
        k = min(TOP_K, self._probabilities.shape[-1])
        values, indices = ops.top_k(self._probabilities, k)
        return {"top_k_indices": ops.cast(indices, "int32"), "top_k_probabilities": values}

    def features(self) -> dict[str, Any]:
        """[N, D], the pooled embedding that the classifier reads."""
        return {"features": self._classifier()[1]}

    def cam(self) -> dict[str, Any]:
        """[N, h, w]."""
        dense, features = self._classifier()
        pool, feature_map = _made_by(features)
        if not isinstance(pool, layers.GlobalAveragePooling2D):
            raise ExportError(
                f"{self.network.name} has no cam: its classifier reads {pool.name}, and a class "
                "activation map needs a global average pool there"
            )
        activation_map = ClassActivationMap(dense, name="cam")
        return {"cam": activation_map(feature_map, self._probabilities)}

    def auxiliary(self, name: str) -> dict[str, Any]:
        """[N, K], an auxiliary classifier's probabilities."""
        if name not in self.network.output:
            raise ExportError(
                f"{self.network.name} has no output {name!r}; it has: "
                f"{', '.join(self.network.output)} (auxiliary heads stand in the model that is "
                "trained with them)"
            )
        return {name: self.network.output[name]}

    def _last(self) -> Any:
        """Return the logits [N, K], the input of the network's softmax."""
        main = self.network.output["main"]
        layer, source = _made_by(main)
        logits = None
        if isinstance(layer, layers.Softmax):
            logits = source
        elif _ends_in(layer, "softmax" if main.shape[-1] > 1 else "sigmoid"):
            logits = source if isinstance(layer, layers.Activation) else _linear(layer, source)
        if logits is not None:
            one_unit = main.shape[-1] == 1
            return ops.concatenate([0 * logits, logits], axis=1) if one_unit else logits
        raise ExportError(
            f"{self.network.name} ends in {layer.name}: logits and a temperature need a softmax "
            "there, as Dense(K, activation='softmax')"
        )

    def _check_sigmoid(self) -> None:
        layer, _ = _made_by(self.network.output["main"])
        if not _ends_in(layer, "sigmoid"):
            raise ExportError(
                f"{self.network.name} gives [None, 1] from {layer.name}; one unit must have a "
                "sigmoid, as Dense(1, activation='sigmoid'), and is served as two classes; more "
                "classes need a softmax, as Dense(K, activation='softmax')"
            )

    def _classifier(self) -> tuple[Any, Any]:
        """Return the Dense layer that gives the logits, and the features [N, D] that it reads."""
        layer, source = _made_by(self.network.output["main"])
        while isinstance(layer, layers.Softmax | layers.Activation):
            layer, source = _made_by(source)
        if not isinstance(layer, layers.Dense):
            raise ExportError(
                f"{self.network.name} has no features: its probabilities come from {layer.name}, "
                "not from a Dense layer"
            )
        before, behind = _made_by(source)
        while isinstance(before, layers.Dropout):
            source = behind
            before, behind = _made_by(source)
        return layer, source


# Each output that can be asked for, and the tensors that it is.
OUTPUTS: dict[str, Callable[[Heads], dict[str, Any]]] = {
    "probabilities": Heads.probabilities,
    "logits": Heads.logits,
    "top_k": Heads.top_k,
    "cam": Heads.cam,
    "features": Heads.features,
    "aux1": lambda heads: heads.auxiliary("aux1"),
    "aux2": lambda heads: heads.auxiliary("aux2"),
}


def with_outputs(network: Any, outputs: Sequence[str], temperature: float | None = None) -> Any:
    """The network with these outputs, and `probabilities` before them, as a dict by name.

    Args:
        network: what `network.prepared` gave.
        outputs: names from `OUTPUTS`.
        temperature: that the logits are divided by.

    Raises:
        ExportError: an output is unknown, or the network cannot have it.
    """
    check_names("output", outputs, OUTPUTS)
    heads = Heads(network, temperature)
    tensors: dict[str, Any] = {}
    for name in ("probabilities", *outputs):
        tensors |= OUTPUTS[name](heads) if name not in tensors else {}
    return keras.Model(network.inputs, tensors, name=network.name)


def _made_by(tensor: Any) -> tuple[Any, Any]:
    """Return the operation that gives a tensor, and the first tensor that it takes."""
    operation, node, _ = tensor._keras_history
    sources = operation._inbound_nodes[node].input_tensors
    return operation, sources[0] if sources else None


def _ends_in(layer: Any, activation: str) -> bool:
    """Return whether a layer is a Dense or an Activation with this activation of Keras'."""
    is_classifier = isinstance(layer, layers.Dense | layers.Activation)
    return is_classifier and layer.activation is getattr(keras.activations, activation)


def _linear(dense: Any, source: Any) -> Any:
    """Return what a Dense layer gives without its activation."""
    linear = layers.Dense(dense.units, use_bias=dense.use_bias, name=f"{dense.name}_logits")
    logits = linear(source)
    linear.set_weights(dense.get_weights())
    return logits
