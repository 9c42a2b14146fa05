"""Turn a Keras model into a checked, flat float32 network with named outputs.

Models inside the model are replaced by their layers, so that the classifier can be found. A
`Normalization` becomes a `Rescaling`, because exporters would turn its statistics into inputs.

The outputs are derived from the classifier, the end of the network: a global average pool,
optionally dropout, a Dense layer and a softmax. The output `logits` needs the softmax, `features`
needs the Dense layer, and `cam` also needs the pool. A network that ends in one sigmoid unit,
p = sigmoid(z), gets two classes: logits [0, z], and their softmax, probabilities [1 - p, p].
"""

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_cnns.keras_internals import (
    flatten_layers,
    functional_graph,
    input_tensors,
    operation_of,
    run_through_graph,
)
from keras_cnns.models.heads import (
    deep_recursion,  # registers keras_cnns' layers with Keras' loader
)
from keras_cnns_export.contract import COLOURS
from keras_cnns_export.errors import ExportError, check_names, in_one_line

_TOP_K = 5  # maximum number of classes in the output `top_k`


def load_model(path: str | os.PathLike[str], *, trust: bool = False) -> Any:
    """Load a `.keras` file without its optimizer and loss, in Keras' safe mode by default.

    Args:
        path: the file.
        trust: turn off the safe mode, and run the Python code of the file's Lambda layers. Use it
            only for files that you trust.

    Raises:
        ExportError: the file is missing, damaged or no `.keras` file, or it contains code although
            `trust` is false.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"there is no file {path}")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ExportError(
            f"{path} is no .keras file; write one with model.save('{path.stem}.keras')"
        )
    try:
        with deep_recursion():
            return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:
        reason = in_one_line(error)
        if not trust and ("safe_mode" in reason or "unsafe" in reason):
            raise ExportError(
                f"{path} contains Python code, which would run when the file is loaded; if you "
                "created the file yourself, give --trust, or trust=True in Python"
            ) from error
        raise ExportError(f"cannot load {path}: {reason}") from error


def _caffe(pixels: Any) -> Any:
    return layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])(pixels[..., ::-1])


def _tf(pixels: Any) -> Any:
    return layers.Rescaling(1 / 127.5, offset=-1)(pixels)


def _torch(pixels: Any) -> Any:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scale = [1 / (255 * s) for s in std]
    return layers.Rescaling(scale, offset=[-m / s for m, s in zip(mean, std, strict=True)])(pixels)


# The modes of keras.applications' `preprocess_input`, on pixels 0..255.
PREPROCESS_INPUT: dict[str, Callable[[Any], Any]] = {
    "caffe": _caffe,  # ResNet, VGG
    "tf": _tf,  # ResNet V2, Inception, Xception, MobileNet
    "torch": _torch,  # DenseNet
}


def preprocessed(pixels: Any, mode: str | None) -> Any:
    """Transform pixels as `preprocess_input` does in this mode; None leaves them unchanged."""
    return pixels if mode is None else PREPROCESS_INPUT[mode](pixels)


def prepare(model: Any, preprocess_input: str | None = None) -> Any:
    """Return a functional model in float32: pixels 0..255 [N, H, W, C] -> {"main": [N, K], ...}.

    The given model is not changed. If its layers can be served as they are, the result shares them.

    Raises:
        ExportError: the model is no image classifier with a fixed input size, or has NaN weights.
    """
    checked = as_functional(model)
    for weight in checked.weights:
        if np.isnan(np.asarray(ops.convert_to_numpy(weight), "float32")).any():
            raise ExportError(
                f"{model.name} holds NaN in the weight {weight.path}: its training diverged; "
                "export an earlier checkpoint"
            )
    if preprocess_input is not None:
        check_names("preprocess_input", [preprocess_input], PREPROCESS_INPUT)
        if checked.inputs[0].shape[3] != 3:
            raise ExportError(
                f"preprocess_input={preprocess_input!r} is only for RGB images, but {model.name} "
                f"takes images with {checked.inputs[0].shape[3]} channels"
            )
    if preprocess_input is None and all(map(_is_plain, checked.layers)):
        return checked
    with deep_recursion():
        return _rebuilt(checked, preprocess_input)


def as_functional(model: Any) -> Any:
    """Return a functional model with the same layers and a dict of outputs, after checks.

    Raises:
        ExportError: Keras does not run on TensorFlow, or the model does not map images
            [N, H, W, C] to an output [N, K] or to a dict with such an output under the key "main".
    """
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"Keras runs on {keras.backend.backend()}, and the export needs TensorFlow: save the "
            "model as a .keras file, which every backend loads, and export the file with "
            "KERAS_BACKEND=tensorflow"
        )
    if not isinstance(model, keras.Model):
        raise ExportError(f"cannot export a {type(model).__name__}: give a keras.Model")
    try:
        inputs = model.inputs
        output = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
        if isinstance(output, list | tuple) and len(output) == 1:
            (output,) = output  # keras.Model(outputs=[x]) returns one tensor, too
    # Which of these exceptions Keras raises depends on the kind of model.
    except (AttributeError, ValueError):
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
    outputs = output if isinstance(output, dict) else {"main": output}
    if "main" not in outputs:
        raise ExportError(
            f"{model.name} has the outputs {', '.join(output)}, but no 'main', which must be the "
            "probabilities"
        )
    # A list of outputs has no shape; `sizes` is then empty.
    sizes = list(getattr(outputs["main"], "shape", ()))
    if len(sizes) != 2 or not sizes[1]:
        raise ExportError(
            f"{model.name} gives {sizes or f'a {type(output).__name__}'}; it must give "
            "probabilities [N, classes], or a dict with these probabilities under the key 'main'"
        )
    with deep_recursion():
        # This model shares the layers of `model`, and is not compiled.
        return keras.Model(inputs, outputs, name=model.name)


def lower_precision(model: Any) -> str | None:
    """Return the dtype policy of the first layer whose policy is not float32, or None."""
    policies = (layer.dtype_policy.name for layer in flatten_layers(model))
    return next((each for each in policies if each != "float32"), None)


def first_layer_with_nan(network: Any, pixels: Any) -> str | None:
    """Return the name of the first layer whose output for these pixels holds NaN, or None."""
    found: list[str] = []

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = operation(*args, **kwargs)
        if any(np.isnan(ops.convert_to_numpy(x)).any() for x in keras.tree.flatten(outputs)):
            found.append(operation.name)
        return outputs

    with deep_recursion():
        run_through_graph(network, pixels, call)
    return found[0] if found else None


def _is_plain(layer: Any) -> bool:
    is_served_as_it_is = not isinstance(layer, keras.Model | layers.Normalization)
    return is_served_as_it_is and all(
        part.dtype_policy.name == "float32" for part in (layer, *flatten_layers(layer))
    )


def _rebuilt(model: Any, preprocess_input: str | None) -> Any:
    """Return a copy of the model with new layers in float32, and without inner models."""
    copies: dict[int, tuple[Any, Any]] = {}  # id of an operation -> the operation and its copy

    def copy_of(operation: Any) -> Any:
        if id(operation) not in copies:
            copies[id(operation)] = operation, _in_float32(operation)
        return copies[id(operation)][1]

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        inner = functional_graph(operation)
        if inner is not None:
            inputs = args[0] if args else next(iter(kwargs.values()))
            return run_through_graph(inner, inputs, call)
        return copy_of(operation)(*args, **kwargs)

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for layers that are created by other layers
    try:
        pixels = keras.Input(model.inputs[0].shape[1:], name="pixels")
        outputs = call(model, preprocessed(pixels, preprocess_input))
        _make_names_unique(outputs)  # two inner models may use the same name
        network = keras.Model(pixels, outputs, name=model.name)
        for old, new in copies.values():
            if getattr(old, "weights", None) and not isinstance(old, layers.Normalization):
                new.set_weights(old.get_weights())
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ExportError(f"{model.name} cannot be rebuilt in float32: {error}") from error
    finally:
        keras.config.set_dtype_policy(policy)
    if not all(map(_is_plain, network.layers)):
        raise ExportError(
            f"{model.name} cannot be rebuilt in float32: a layer sets the dtype policy of the "
            "layers that it contains; build the model in float32 and load the weights into it"
        )
    return network


def _in_float32(operation: Any) -> Any:
    """Return a copy of an operation; a layer's copy computes in float32 and has new weights."""
    if isinstance(operation, layers.Normalization):
        return _as_rescaling(operation)
    config = operation.get_config()
    if isinstance(operation, layers.Layer):  # `a + b` is no layer and has no policy
        config["dtype"] = "float32"
    return type(operation).from_config(config)


def _as_rescaling(normalization: Any) -> Any:
    """Return a Rescaling that computes the same as a Normalization layer.

    Raises:
        ValueError: the layer was not adapted, normalises along an axis other than the channels, or
            inverts a normalization.
    """
    name = normalization.name
    statistics = [getattr(normalization, key, None) for key in ("mean", "variance")]
    if any(each is None for each in statistics):
        raise ValueError(f"{name} was never adapted: it has no mean and variance")
    mean, variance = map(ops.convert_to_numpy, statistics)
    deviation = (variance**0.5).clip(keras.backend.epsilon())
    scale, offset = (1 / deviation).ravel(), (-mean / deviation).ravel()
    if normalization.invert or scale.size not in (1, normalization.input.shape[-1]):
        raise ValueError(
            f"{name} must normalise each channel, or all channels together, with invert=False; use "
            "a Rescaling instead"
        )
    return layers.Rescaling(scale.tolist(), offset=offset.tolist(), name=name)


def with_outputs(network: Any, outputs: Sequence[str], temperature: float | None = None) -> Any:
    """Return the network with a dict of outputs, `probabilities` first.

    Args:
        network: the result of `prepare`.
        outputs: names from `OUTPUTS`.
        temperature: a number by which the logits are divided.

    Raises:
        ExportError: an output is unknown, or the network cannot have it.
    """
    check_names("output", outputs, OUTPUTS)
    heads = _Heads(network, temperature)
    tensors: dict[str, Any] = {}
    for name in ("probabilities", *outputs):
        tensors |= OUTPUTS[name](heads) if name not in tensors else {}
    _make_names_unique(tensors, network.operations)
    return keras.Model(network.inputs, tensors, name=network.name)


def _make_names_unique(outputs: Any, keep: Sequence[Any] = ()) -> None:
    """Rename operations that have the name of another one; Keras refuses a model with both.

    Keras numbers the names that it generates within a process. An operation that is added to a
    loaded model can therefore have the name of one of the model's operations, such as `subtract`.

    Args:
        outputs: the symbolic outputs of the operations.
        keep: operations whose names are not changed.
    """
    names = {operation.name for operation in keep}
    checked = {id(operation) for operation in keep}
    visited = set()
    pending = keras.tree.flatten(outputs)
    while pending:
        tensor = pending.pop()
        if id(tensor) in visited:
            continue
        visited.add(id(tensor))
        pending += input_tensors(tensor)
        operation = operation_of(tensor)
        if id(operation) not in checked:
            checked.add(id(operation))
            while operation.name in names:
                operation.name += "_again"
            names.add(operation.name)


class _ClassActivationMap(layers.Layer):
    """The class activation map of the most probable class (Zhou et al. 2016, equation 2).

    The values are not scaled to a fixed range. At each position of the feature map, the value is
    the sum of the features, weighted by the classifier's weights for the class. It shows how much
    the position contributes to the logit: because the average pool is linear, the mean of the map
    is the logit minus the bias (before a division by the temperature).

    A network with one sigmoid unit, p = sigmoid(z), has two classes. The map of the second class
    uses the weights of the unit, and its mean is z minus the bias. The map of the first class uses
    the negated weights, and its mean is the bias minus z, although the logit of this class is 0.
    """

    def __init__(self, classifier: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classifier = classifier

    def call(self, feature_map: Any, probabilities: Any) -> Any:
        """Compute the map: [N, h, w, D] and [N, K] -> [N, h, w]."""
        class_weights = ops.transpose(self.classifier.kernel)
        if class_weights.shape[0] == 1:
            class_weights = ops.concatenate([-class_weights, class_weights])
        # `top_k` is used, since Keras' argmax cannot be expressed in ONNX.
        _, first = ops.top_k(probabilities, 1)
        weights = ops.take(class_weights, first[:, 0], axis=0)
        # Channels first, as in ONNX: this transpose and the one that the converter inserts cancel
        # each other.
        maps = ops.transpose(feature_map, (0, 3, 1, 2))
        return ops.sum(maps * weights[:, :, None, None], axis=1)


class _Heads:
    """The tensors from which the named outputs of a network are computed.

    Raises:
        ExportError: the network has one output unit without a sigmoid.
    """

    def __init__(self, network: Any, temperature: float | None = None) -> None:
        self.network, self.name = network, network.name
        self.main = self.scores = network.output["main"]
        self.is_one_unit = self.main.shape[-1] == 1
        self.scaled_logits: Any = None
        if self.is_one_unit:
            self._check_sigmoid()
            self.scores = ops.concatenate([1 - self.main, self.main], axis=1)
        if temperature is not None:
            self.scaled_logits = layers.Rescaling(1 / temperature, name="temperature")(
                self._classifier_logits()
            )
            self.scores = layers.Softmax(name="calibrated")(self.scaled_logits)

    def probabilities(self) -> dict[str, Any]:
        """Return the probabilities [N, K]."""
        return {"probabilities": self.scores}

    def logits(self) -> dict[str, Any]:
        """Return the logits [N, K]; the probabilities are their softmax."""
        has_temperature = self.scaled_logits is not None
        return {"logits": self.scaled_logits if has_temperature else self._classifier_logits()}

    def top_k(self) -> dict[str, Any]:
        """Return the indices and probabilities of the k most probable classes, both [N, k].

        The classes are in descending order of their probabilities; k = min(5, K).
        """
        values, indices = ops.top_k(self.scores, min(_TOP_K, self.scores.shape[-1]))
        return {"top_k_indices": ops.cast(indices, "int32"), "top_k_probabilities": values}

    def features(self) -> dict[str, Any]:
        """Return the pooled embedding, which is the input of the classifier, [N, D]."""
        return {"features": self._classifier()[1]}

    def cam(self) -> dict[str, Any]:
        """Return the class activation map [N, h, w]."""
        dense, features = self._classifier()
        pool, feature_map = _origin(features)
        if not isinstance(pool, layers.GlobalAveragePooling2D):
            raise ExportError(
                f"{self.name} has no cam: its classifier reads {pool.name}, and a class "
                "activation map needs a global average pool there"
            )
        return {"cam": _ClassActivationMap(dense, name="cam")(feature_map, self.scores)}

    def auxiliary(self, name: str) -> dict[str, Any]:
        """Return an auxiliary classifier's probabilities [N, K]."""
        if name not in self.network.output:
            raise ExportError(
                f"{self.name} has no output {name!r}; it has: "
                f"{', '.join(self.network.output)} (a model has auxiliary heads only if it was "
                "built for training)"
            )
        return {name: self.network.output[name]}

    def _classifier_logits(self) -> Any:
        """Return the logits [N, K] from which the network computes its probabilities."""
        layer, source = _origin(self.main)
        logits = None
        if isinstance(layer, layers.Softmax):
            logits = source
        elif _has_activation(layer, "sigmoid" if self.is_one_unit else "softmax"):
            logits = source if isinstance(layer, layers.Activation) else _linear(layer, source)
        if logits is None:
            raise ExportError(
                f"{self.name} ends in {layer.name}; the output logits and a temperature are only "
                "possible if the last layer has a softmax, for example "
                "Dense(K, activation='softmax')"
            )
        return ops.concatenate([0 * logits, logits], axis=1) if self.is_one_unit else logits

    def _check_sigmoid(self) -> None:
        layer, _ = _origin(self.main)
        if not _has_activation(layer, "sigmoid"):
            raise ExportError(
                f"{self.name} gives [None, 1], and its last layer, {layer.name}, has no sigmoid; "
                "end the model with Dense(1, activation='sigmoid') for two classes, or with "
                "Dense(K, activation='softmax') for K classes"
            )

    def _classifier(self) -> tuple[Any, Any]:
        """Return the Dense layer that computes the logits, and its input, the features [N, D]."""
        layer, source = _origin(self.main)
        while isinstance(layer, layers.Softmax | layers.Activation):
            layer, source = _origin(source)
        if not isinstance(layer, layers.Dense):
            raise ExportError(
                f"{self.name} has no features: its probabilities come from {layer.name}, "
                "not from a Dense layer"
            )
        while isinstance(operation_of(source), layers.Dropout):
            _, source = _origin(source)
        return layer, source


# The outputs that can be requested, and the tensors of each.
OUTPUTS: dict[str, Callable[[_Heads], dict[str, Any]]] = {
    "probabilities": _Heads.probabilities,
    "logits": _Heads.logits,
    "top_k": _Heads.top_k,
    "cam": _Heads.cam,
    "features": _Heads.features,
    "aux1": lambda heads: heads.auxiliary("aux1"),
    "aux2": lambda heads: heads.auxiliary("aux2"),
}


def _origin(tensor: Any) -> tuple[Any, Any]:
    """Return the operation that computes a tensor, and the first input of this operation.

    If the tensor is an Input of the network, the first input is None.
    """
    sources = input_tensors(tensor)
    return operation_of(tensor), sources[0] if sources else None


def _has_activation(layer: Any, activation: str) -> bool:
    """Return whether a layer is a Dense or Activation layer with this Keras activation."""
    has_activation = isinstance(layer, layers.Dense | layers.Activation)
    return has_activation and layer.activation is getattr(keras.activations, activation)


def _linear(dense: Any, source: Any) -> Any:
    """Return the output of a Dense layer before its activation."""
    linear = layers.Dense(dense.units, use_bias=dense.use_bias, name=f"{dense.name}_logits")
    logits = linear(source)
    linear.set_weights(dense.get_weights())
    return logits
