"""Prepare a Keras model for serving: checked, flat, in float32, from raw pixels on.

Models within the model are replaced by their layers, so that the classifier can be found. A
`Normalization` becomes a `Rescaling`, because exporters would turn its statistics into inputs.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_cnns.models.heads import deep_recursion
from keras_cnns_export.contract import COLOURS
from keras_cnns_export.errors import ExportError, check_names


def _caffe(pixels: Any) -> Any:
    return layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])(pixels[..., ::-1])


def _tf(pixels: Any) -> Any:
    return layers.Rescaling(1 / 127.5, offset=-1)(pixels)


def _torch(pixels: Any) -> Any:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scale = [1 / (255 * s) for s in std]
    return layers.Rescaling(scale, offset=[-m / s for m, s in zip(mean, std, strict=True)])(pixels)


# What `preprocess_input` of keras.applications does to pixels 0..255, by the name of its mode.
PREPROCESS_INPUT: dict[str, Callable[[Any], Any]] = {
    "caffe": _caffe,  # ResNet, VGG
    "tf": _tf,  # ResNet V2, Inception, Xception, MobileNet
    "torch": _torch,  # DenseNet
}


def prepared(model: Any, preprocess_input: str | None = None) -> Any:
    """Return a functional model in float32: pixels 0..255 [N, H, W, C] -> {"main": [N, K], ...}.

    The given model is not changed; where it can be served as it is, the result shares its layers.

    Raises:
        ExportError: the model is no image classifier of a fixed input size, or has NaN weights.
    """
    checked = _checked(model)
    for weight in checked.weights:
        if np.isnan(np.asarray(keras.ops.convert_to_numpy(weight), "float32")).any():
            raise ExportError(
                f"{model.name} holds NaN in the weight {weight.path}: its training diverged; "
                "export an earlier checkpoint"
            )
    if preprocess_input is not None:
        check_names("preprocess_input", [preprocess_input], PREPROCESS_INPUT)
        if checked.inputs[0].shape[3] != 3:
            raise ExportError(f"preprocess_input={preprocess_input!r} is for RGB, 3 channels")
    if preprocess_input is None and all(map(_is_plain, checked.layers)):
        return checked
    with deep_recursion():
        return _rebuilt(checked, preprocess_input)


def _checked(model: Any) -> Any:
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
    outputs = output if isinstance(output, dict) else {"main": output}
    if "main" not in outputs:
        raise ExportError(f"{model.name} has the outputs {', '.join(output)}, but no 'main'")
    sizes = list(getattr(outputs["main"], "shape", ()))  # a list of outputs has none
    if len(sizes) != 2 or not sizes[1]:
        raise ExportError(
            f"{model.name} gives {sizes or f'a {type(output).__name__}'}; it must give "
            "probabilities [N, classes], or a dict of outputs with them as 'main'"
        )
    with deep_recursion():
        return keras.Model(inputs, outputs, name=model.name)  # shares the layers, not compiled


def own_answers(
    model: Any, preprocess_input: str | None = None
) -> tuple[str, Callable[[Any], Any]] | None:
    """Return a mixed-precision model's policy, "mixed_bfloat16", and the function of its answers.

    The function maps pixels 0..255, float32 [N, H, W, C], to what the model itself computes for
    its main output [N, K], in float32. None for a model that computes in float32.
    """
    policies = (part.dtype_policy.name for each in model.layers for part in _parts(each))
    policy = next((each for each in policies if each != "float32"), None)
    if policy is None:
        return None
    checked = _checked(model)

    def answers(pixels: Any) -> Any:
        if preprocess_input is not None:
            pixels = PREPROCESS_INPUT[preprocess_input](pixels)
        outputs = checked(pixels, training=False)
        main = outputs["main"] if isinstance(outputs, dict) else outputs
        return keras.ops.cast(main, "float32")

    return policy, answers


def first_layer_with_nan(network: Any, pixels: Any) -> str | None:
    """Return the name of the first layer whose output for these pixels holds NaN, or None."""
    found: list[str] = []

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = operation(*args, **kwargs)
        has_nan = any(
            np.isnan(keras.ops.convert_to_numpy(each)).any() for each in keras.tree.flatten(outputs)
        )
        if has_nan:
            found.append(operation.name)
        return outputs

    with deep_recursion():
        network._run_through_graph(pixels, operation_fn=lambda own: own, call_fn=call)
    return found[0] if found else None


def _parts(layer: Any) -> Any:
    """Return a layer and all layers inside of it."""
    return layer._flatten_layers()


def _is_plain(layer: Any) -> bool:
    own = not isinstance(layer, keras.Model | layers.Normalization)
    return own and all(part.dtype_policy.name == "float32" for part in _parts(layer))


def _rebuilt(model: Any, preprocess_input: str | None) -> Any:
    """The model from new layers with the same weights, without models inside of it."""
    twins: dict[int, tuple[Any, Any]] = {}  # by the old operation's id: it, and the new one
    names: set[str] = set()

    def twin(operation: Any) -> Any:
        if id(operation) not in twins:
            new = _in_float32(operation)
            while new.name in names:  # two models within the model may use one name
                new.name += "_again"
            names.add(new.name)
            twins[id(operation)] = operation, new
        return twins[id(operation)][1]

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        inner = getattr(operation, "_functional", None) or operation  # a Sequential's
        if isinstance(inner, keras.Model) and hasattr(inner, "_run_through_graph"):
            return inner._run_through_graph(args[0], operation_fn=lambda own: own, call_fn=call)
        return twin(operation)(*args, **kwargs)

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for layers that a layer makes for itself
    try:
        pixels = keras.Input(model.inputs[0].shape[1:], name="pixels")
        x = pixels if preprocess_input is None else PREPROCESS_INPUT[preprocess_input](pixels)
        network = keras.Model(pixels, call(model, x), name=model.name)
        for old, new in twins.values():
            if getattr(old, "weights", None) and not isinstance(old, layers.Normalization):
                new.set_weights(old.get_weights())
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ExportError(f"{model.name} cannot be rebuilt in float32: {error}") from error
    finally:
        keras.config.set_dtype_policy(policy)
    if not all(map(_is_plain, network.layers)):
        raise ExportError(
            f"{model.name} cannot be rebuilt in float32: a layer sets the policy of those in it; "
            "build the model in float32 and load the weights into it"
        )
    return network


def _in_float32(operation: Any) -> Any:
    """A new operation like it; a layer without its weights, and in float32."""
    if isinstance(operation, layers.Normalization):
        mean, variance = (keras.ops.convert_to_numpy(x) for x in _statistics(operation))
        deviation = (variance**0.5).clip(keras.backend.epsilon())
        scale, offset = (1 / deviation).ravel(), (-mean / deviation).ravel()
        if operation.invert or scale.size not in (1, operation.input.shape[-1]):
            raise ValueError(f"{operation.name} normalises by position; use a Rescaling")
        return layers.Rescaling(scale.tolist(), offset=offset.tolist(), name=operation.name)
    config = operation.get_config()
    if isinstance(operation, layers.Layer):  # else `a + b`, which has no policy
        config["dtype"] = "float32"
    return type(operation).from_config(config)


def _statistics(normalization: Any) -> tuple[Any, Any]:
    """Mean and variance of a Normalization layer, given or adapted.

    Raises:
        ValueError: it has neither.
    """
    mean, variance = getattr(normalization, "mean", None), getattr(normalization, "variance", None)
    if mean is None or variance is None:
        raise ValueError(f"{normalization.name} was never adapted: it has no mean and variance")
    return mean, variance
