"""The parts that all models share: the image input, and the heads with their named outputs."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

import keras
from keras import KerasTensor

from keras_cnns.models.dropout import Dropout
from keras_cnns.models.layers import ConvStep
from keras_cnns.suggestions import did_you_mean

InputShape = tuple[int | None, int | None, int]
PoolStep = Callable[..., KerasTensor]  # (x, *, name) -> pooled map
Pooling = Literal["avg", "max"]


class HeadOptions(TypedDict, total=False):
    """The options of the heads that every model has; `assemble` describes them."""

    aux_heads: bool | Iterable[str]
    features: Iterable[str]
    include_top: bool
    pooling: Pooling | None
    classifier_activation: str | None


def image_input(
    input_shape: InputShape, min_size: int, input_tensor: KerasTensor | None = None
) -> KerasTensor:
    """Return the input tensor of a model: a new input, or `input_tensor`.

    Args:
        input_shape: (H, W, C); H and W may be None if the model does not need to know them.
        min_size: the minimum of H and W in pixels; in a smaller image, a feature map would be
            empty.
        input_tensor: a tensor to use instead, such as the output of a layer before the model.

    Raises:
        ValueError: the shape is not (H, W, C) or is too small, or Keras' image data format is
            channels_first.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "the models of keras_cnns need channels-last images; "
            "call keras.config.set_image_data_format('channels_last')"
        )
    shape = tuple(input_shape) if input_tensor is None else tuple(input_tensor.shape[1:])
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(f"input_shape is {shape}; it must be (height, width, channels)")
    if any(size is not None and size < min_size for size in shape[:2]):
        raise ValueError(
            f"input_shape is {shape}; the smallest height and width of this model is {min_size}"
        )
    if shape[-1] < 1:
        raise ValueError(f"input_shape is {shape}; it needs at least one channel")
    if input_tensor is not None:
        return input_tensor
    return keras.Input(shape, name="images")


def normalised_input(
    input_shape: InputShape, mean: Sequence[float], std: Sequence[float]
) -> KerasTensor:
    """Return (pixels - mean) / std of a new input `images`, for use as `input_tensor`.

    The normalisation is a layer of the model. The saved model, its exports and the server therefore
    take raw pixels from 0 to 255, and cannot normalise differently.

    Args:
        input_shape: (H, W, C); H and W may be None if the model does not need to know them.
        mean: one value per channel, in levels from 0 to 255.
        std: one positive value per channel, in levels from 0 to 255.
    """
    scale = [1 / each for each in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    images = keras.Input(input_shape, name="images")
    return keras.layers.Rescaling(scale, offset, dtype="float32", name="normalise")(images)


def _classifier(x: KerasTensor, classes: int, activation: str | None, *, name: str) -> KerasTensor:
    """Return class scores: [N, D] -> [N, classes].

    Both layers compute in float32 under every dtype policy, since a softmax of bfloat16 logits
    would lose small differences on which the loss depends.
    """
    suffix = "" if name == "main" else f"_{name}"
    x = keras.layers.Dense(classes, dtype="float32", name=f"logits{suffix}")(x)
    return keras.layers.Activation(activation or "linear", dtype="float32", name=name)(x)


def strided_pool(x: KerasTensor, *, name: str) -> KerasTensor:
    """Average windows at a fixed stride: [N, H, W, C] -> [N, min(H, 4), min(W, 4), C].

    A 14x14 map is averaged over 5x5 windows with stride 3, as in Szegedy et al. 2014, section 5.
    For maps of other sizes, the stride is the largest that results in four windows along an axis,
    and the window is the smallest with which the four windows cover this axis.

    Raises:
        ValueError: H or W is None.
    """
    sizes = x.shape[1:3]
    if None in sizes:
        raise ValueError("aux_heads need an input_shape with a known height and width")
    strides = tuple(max(size // 4, 1) for size in sizes)
    window = tuple(max(size - 3 * stride, 1) for size, stride in zip(sizes, strides, strict=True))
    return keras.layers.AveragePooling2D(window, strides=strides, name=name)(x)


def assemble(
    inputs: KerasTensor,
    feature_maps: Mapping[str, KerasTensor],
    *,
    classes: int,
    aux_heads: bool | Iterable[str] = False,
    default_aux_heads: tuple[str, ...],
    auxiliary_step: ConvStep,
    auxiliary_pool: PoolStep = strided_pool,
    features: Iterable[str] = (),
    include_top: bool = True,
    pooling: Pooling | None = None,
    classifier_activation: str | None = "softmax",
    dropout: float = 0.0,
    name: str,
) -> keras.Model:
    """Add the heads to a body and return the model.

    Args:
        inputs: the tensor from which the body is computed.
        feature_maps: the body's named maps [N, H, W, C] in order; the last map is the output of the
            body.
        classes: number of classes, K.
        aux_heads: True adds the model's default auxiliary classifiers; a tuple of names of feature
            maps adds a classifier to each of these maps. Their outputs are named `aux1`, `aux2`,
            ... in this order.
        default_aux_heads: the feature maps that `aux_heads=True` selects.
        auxiliary_step: the convolution of an auxiliary classifier, with normalisation and
            activation.
        auxiliary_pool: the average pool of an auxiliary classifier.
        features: names of feature maps that become outputs.
        include_top: if False, build the model without its classifier.
        pooling: if there is no classifier, `avg` or `max` pools the last map to [N, C].
        classifier_activation: `softmax`, or None for logits.
        dropout: fraction of the pooled features that is dropped in training.
        name: the model's name.

    Returns:
        A model with one output tensor or, if there are several, a dict of name -> output:
        `main` [N, K], `aux1`, `aux2`, ... [N, K], and each feature map.

    Raises:
        ValueError: an argument is out of its range, or names an unknown feature map.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; it must be at least 1")
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling is {pooling!r}; it must be None, 'avg' or 'max'")
    if aux_heads is True:
        aux_heads = default_aux_heads
    for option, names in (("aux_heads", aux_heads), ("features", features)):
        if isinstance(names, str):
            raise ValueError(f"{option} is {names!r}; it must be a tuple of names: ({names!r},)")
    aux_heads, features = tuple(aux_heads or ()), tuple(features)
    if aux_heads and not include_top:
        raise ValueError("aux_heads are classifiers: they need include_top=True")
    for wanted in (*aux_heads, *features):
        if wanted not in feature_maps:
            hint = did_you_mean(wanted, feature_maps)
            raise ValueError(
                f"{name} has no feature map {wanted!r}{hint} (it has {', '.join(feature_maps)})"
            )

    x = list(feature_maps.values())[-1]
    outputs: dict[str, Any] = {}
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        if dropout:
            x = Dropout(dropout, name="dropout")(x)
        outputs["main"] = _classifier(x, classes, classifier_activation, name="main")
    elif pooling or not features:
        pool = {
            "avg": keras.layers.GlobalAveragePooling2D,
            "max": keras.layers.GlobalMaxPooling2D,
        }
        outputs["main"] = pool[pooling](name=f"{pooling}_pool")(x) if pooling else x
    for number, stage in enumerate(aux_heads, start=1):
        output = f"aux{number}"
        hidden = _auxiliary_head(
            feature_maps[stage], auxiliary_step, pool=auxiliary_pool, name=output
        )
        outputs[output] = _classifier(hidden, classes, classifier_activation, name=output)
    outputs |= {stage: feature_maps[stage] for stage in features}

    only_main = list(outputs) == ["main"]
    with deep_recursion():
        (source,) = keras.utils.get_source_inputs(inputs)
        return keras.Model(source, outputs["main"] if only_main else outputs, name=name)


@contextmanager
def deep_recursion(limit: int = 20_000) -> Iterator[None]:
    """Raise Python's recursion limit temporarily.

    Keras traverses a functional graph recursively, with at least one frame for each layer. If a
    model has more than about 150 residual blocks, building or loading it therefore exceeds Python's
    default limit of 1,000. Deeper recursion is safe, because Python's frames are on the heap.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, limit))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _auxiliary_head(
    x: KerasTensor, step: ConvStep, *, pool: PoolStep = strided_pool, name: str
) -> KerasTensor:
    """Compute the features of an auxiliary classifier: [N, H, W, C] -> [N, 1024].

    It has an average pool to 4x4 pixels, a 1x1 convolution and a dense layer (Szegedy et al. 2014,
    section 5).

    Args:
        x: a feature map.
        step: a convolution with its normalisation and activation.
        pool: the average pool; its layer is named `{name}_pool`.
        name: prefix of the layers' names.
    """
    x = pool(x, name=f"{name}_pool")
    x = step(x, 128, 1, name=name)
    x = keras.layers.Flatten(name=f"{name}_flatten")(x)
    x = keras.layers.Dense(1024, activation="relu", name=f"{name}_dense")(x)
    return Dropout(0.7, name=f"{name}_dropout")(x)
