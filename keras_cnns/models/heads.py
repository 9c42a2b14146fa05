"""The two ends of every net: the image input, and the heads that give its named outputs."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
from keras import KerasTensor

from keras_cnns.models.layers import ConvStep
from keras_cnns.suggestions import did_you_mean

InputShape = tuple[int | None, int | None, int]


def image_input(
    input_shape: InputShape, least_size: int, input_tensor: KerasTensor | None = None
) -> KerasTensor:
    """Return the tensor that a net starts from: a new input, or `input_tensor`.

    Args:
        input_shape: (H, W, C); H and W may be None where the net does not need to know them.
        least_size: the smallest H and W, in pixels, that leave each stage at least one position.
        input_tensor: a tensor to start from instead, for a layer before the net.

    Raises:
        ValueError: the shape is not (H, W, C), or is smaller than the net can take.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "these nets are written for channels-last images; "
            "call keras.config.set_image_data_format('channels_last')"
        )
    shape = tuple(input_shape) if input_tensor is None else tuple(input_tensor.shape[1:])
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(f"input_shape is {shape}; it must be (height, width, channels)")
    if any(size is not None and size < least_size for size in shape[:2]):
        raise ValueError(
            f"input_shape is {shape}; the least height and width of this net is {least_size}"
        )
    if shape[-1] < 1:
        raise ValueError(f"input_shape is {shape}; it needs at least one channel")
    if input_tensor is not None:
        return input_tensor
    return keras.Input(shape, name="images")


def classifier(x: KerasTensor, classes: int, activation: str | None, *, name: str) -> KerasTensor:
    """Return class scores: [N, D] -> [N, classes].

    Both layers compute in float32 under every precision policy: a softmax over bfloat16 logits
    loses the small differences that a loss is made of.
    """
    suffix = "" if name == "main" else f"_{name}"
    x = keras.layers.Dense(classes, dtype="float32", name=f"logits{suffix}")(x)
    return keras.layers.Activation(activation or "linear", dtype="float32", name=name)(x)


def assemble(
    inputs: KerasTensor,
    feature_maps: Mapping[str, KerasTensor],
    *,
    classes: int,
    aux_heads: bool | Iterable[str],
    default_aux_heads: tuple[str, ...],
    auxiliary_step: ConvStep,
    features: Iterable[str] = (),
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: str | None = "softmax",
    dropout: float = 0.0,
    weights: Path | str | None = None,
    name: str,
) -> keras.Model:
    """Put the heads on a body and return the model.

    Args:
        inputs: where the body starts.
        feature_maps: the body's named maps [N, H, W, C] in order; the last is its end.
        classes: number of classes, K.
        aux_heads: True for the net's own auxiliary classifiers, or the names of the feature maps
            to put one on; they become the outputs `aux1`, `aux2`, ... in that order.
        default_aux_heads: what True means.
        auxiliary_step: the convolution, normalised and activated, of an auxiliary classifier.
        features: names of feature maps to give as outputs of their own.
        include_top: False leaves the classifier away.
        pooling: without the classifier, `avg` or `max` pools the last map to [N, C].
        classifier_activation: `softmax`, or None for logits.
        dropout: share of the pooled features that training drops.
        weights: a file to load, of this project or another: see `keras_cnns.weights`.
        name: the model's name.

    Returns:
        A model with one output tensor, or, where there are several, a dict of them by name:
        `main` [N, K], `aux1`, `aux2`, ... [N, K], and each feature map.

    Raises:
        ValueError: an argument is out of its range, or names a feature map that is not there.
        WeightsError: the file cannot be read, or is not of this net.
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
            x = keras.layers.Dropout(dropout, name="dropout")(x)
        outputs["main"] = classifier(x, classes, classifier_activation, name="main")
    elif pooling or not features:
        pool = {
            "avg": keras.layers.GlobalAveragePooling2D,
            "max": keras.layers.GlobalMaxPooling2D,
        }
        outputs["main"] = pool[pooling](name=f"{pooling}_pool")(x) if pooling else x
    for number, stage in enumerate(aux_heads, start=1):
        output = f"aux{number}"
        hidden = auxiliary_head(feature_maps[stage], auxiliary_step, name=output)
        outputs[output] = classifier(hidden, classes, classifier_activation, name=output)
    outputs |= {stage: feature_maps[stage] for stage in features}

    only_main = list(outputs) == ["main"]
    with deep_recursion():
        (source,) = keras.utils.get_source_inputs(inputs)
        model = keras.Model(source, outputs["main"] if only_main else outputs, name=name)
    if weights is not None:
        from keras_cnns.weights import load  # it knows the nets, and so comes after them

        load(model, weights)
    return model


@contextmanager
def deep_recursion(limit: int = 20_000) -> Iterator[None]:
    """Allow Python's recursion to go deeper for a while.

    Keras walks a functional graph recursively, a frame or more a layer: from about 150 residual
    blocks on, making or loading a model exceeds Python's default limit of 1,000. Python's frames
    live on the heap, so that the deeper walk is safe.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, limit))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def auxiliary_head(x: KerasTensor, step: ConvStep, *, name: str) -> KerasTensor:
    """Read class evidence off the middle of a net (Szegedy et al. 2014, section 5): -> [N, 1024].

    The average pool leaves 4x4 positions: on a 14x14 map by the paper's 5x5 window with stride 3,
    elsewhere by the largest stride that leaves four windows and the window that reaches the edges.
    A map with fewer than 4x4 positions stays as it is.
    """
    sizes = x.shape[1:3]
    if None in sizes:
        raise ValueError("aux_heads need an input_shape with a known height and width")
    strides = tuple(max(size // 4, 1) for size in sizes)
    window = tuple(max(size - 3 * stride, 1) for size, stride in zip(sizes, strides, strict=True))
    x = keras.layers.AveragePooling2D(window, strides=strides, name=f"{name}_pool")(x)
    x = step(x, 128, 1, name=name)
    x = keras.layers.Flatten(name=f"{name}_flatten")(x)
    x = keras.layers.Dense(1024, activation="relu", name=f"{name}_dense")(x)
    return keras.layers.Dropout(0.7, name=f"{name}_dropout")(x)
