"""The parts of Keras that can become ONNX: every activation, and the layers of image models.

`make soak` adds the layers that have never failed. The cases are branches of a few models, which
are converted once; each branch is compared by itself.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
from keras import activations, layers, ops

from keras_cnns_export import ExportError, export
from keras_cnns_export.formats.onnx import convert
from keras_cnns_export.graph import serving_graph
from keras_cnns_export.onnx_passes import simplify

SHAPE = (12, 12, 3)
Body = Callable[[Any], Any]

ARGUMENTS: dict[str, dict[str, float]] = {"threshold": {"threshold": 0.1, "default_value": -1.0}}
ACTIVATIONS: dict[str, Body] = {
    f"activation {name}": layers.Activation(
        functools.partial(getattr(activations, name), **ARGUMENTS.get(name, {}))
    )
    for name in dir(activations)
    if not name.startswith("_") and name not in ("get", "serialize", "deserialize")
}
ACTIVATIONS["activation glu"] = ops.glu  # Activation assumes that the output has the input's shape


def sequence(layer: Body) -> Body:
    """Apply the layer to the positions of a map as a sequence, [N, H W, C]."""
    return lambda x: layer(layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x))


def attention(layer: Any) -> Body:
    return sequence(lambda x: layer(x, x))


Resize = functools.partial(layers.Resizing, 7, 9)
UpSample = functools.partial(layers.UpSampling2D, 2)
# Layers that our passes or tf2onnx have been wrong about, and one of each kind.
LAYERS: dict[str, Body] = {
    "grouped": layers.Conv2D(8, 3, groups=4),
    "grouped, strided": layers.Conv2D(8, 3, strides=2, groups=8, padding="same", use_bias=False),
    "grouped, dilated": layers.Conv2D(8, 3, groups=2, dilation_rate=2, padding="same"),
    "grouped, 1D": sequence(layers.Conv1D(8, 3, groups=2)),
    "depthwise, strided and dilated": layers.DepthwiseConv2D(
        3, strides=2, dilation_rate=2, padding="same"
    ),
    "batch normalization": layers.BatchNormalization(),
    "batch normalization of rows": layers.BatchNormalization(axis=1),
    "group normalization": layers.GroupNormalization(2),
    "layer normalization": layers.LayerNormalization(),
    "RMS normalization": layers.RMSNormalization(),
    "PReLU by channel": layers.PReLU(shared_axes=[1, 2]),
    # This becomes an If, whose body reads tensors of the graph.
    "resizing, padded": Resize(pad_to_aspect_ratio=True),
    "adaptive average": layers.AdaptiveAveragePooling2D((3, 4)),
    "padding and a pool": lambda x: layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x)),
    "flat, in a row": lambda x: layers.Dense(5)(layers.Reshape((1, 800))(x)),
    "multi-head attention": attention(layers.MultiHeadAttention(2, 4)),
    "GRU": sequence(layers.GRU(4)),  # becomes a Loop
    "operations": lambda x: ops.gelu(x, approximate=False) + ops.var(x, axis=1, keepdims=True),
}
OTHER_LAYERS: dict[str, Body] = {
    "dilated": layers.Conv2D(4, 3, dilation_rate=2),
    "transposed": layers.Conv2DTranspose(4, 3, strides=2),
    "transposed, same": layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
    "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2),
    "depthwise, dilated": layers.DepthwiseConv2D(3, dilation_rate=2),
    "separable": layers.SeparableConv2D(4, 3, strides=2, padding="same"),
    "instance normalization": layers.GroupNormalization(-1),
    "layer normalization of maps": layers.LayerNormalization(axis=[1, 2, 3]),
    "unit normalization": layers.UnitNormalization(),
    "spectral normalization": layers.SpectralNormalization(layers.Conv2D(4, 3)),
    "PReLU": layers.PReLU(),
    "ReLU of every option": layers.ReLU(6, negative_slope=0.1, threshold=0.5),
    "softmax of positions": layers.Softmax(axis=[1, 2]),
    "up-sampling, nearest": UpSample(),
    "up-sampling, bilinear": UpSample(interpolation="bilinear"),
    "up-sampling, bicubic": UpSample(interpolation="bicubic"),
    "resizing, bilinear": Resize(),
    "resizing, nearest": Resize(interpolation="nearest"),
    "resizing, cropped": Resize(crop_to_aspect_ratio=True),
    "adaptive maximum": layers.AdaptiveMaxPooling2D((3, 4)),
    "average pooling": layers.AveragePooling2D(3, 2, padding="same"),
    "global maximum": layers.GlobalMaxPooling2D(),
    "padding and cropping": lambda x: layers.Cropping2D(1)(layers.ZeroPadding2D((2, 1))(x)),
    "center crop": layers.CenterCrop(6, 6),
    "permuted": layers.Permute((2, 1, 3)),
    "einsum": layers.EinsumDense("nhwc,cd->nhwd", (10, 10, 5), bias_axes="d"),
    "dense on maps": layers.Dense(5),
    "random augmentation": lambda x: layers.RandomRotation(0.1)(layers.RandomFlip()(x)),
    "noise": lambda x: layers.GaussianNoise(0.5)(layers.SpatialDropout2D(0.5)(x)),
    "grouped-query attention": attention(layers.GroupQueryAttention(4, 4, 2)),
    "attention": sequence(lambda x: layers.Attention()([x, x])),
    "LSTM": sequence(layers.LSTM(4)),
    "merging": lambda x: layers.Concatenate()(
        [layers.Maximum()([x, -x]), layers.Multiply()([x, x])]
    ),
}
CASES = ACTIVATIONS | LAYERS | OTHER_LAYERS
NAMES = tuple(CASES)
BRANCHES = 12  # of one model; twice as many would take tf2onnx more than twice as long


@functools.cache
def compared(number: int) -> dict[str, tuple[Any, Any]]:
    """Convert a model; return Keras' and ONNX Runtime's answers, float32 [N, D], by branch."""
    keras.utils.set_random_seed(0)
    images = keras.Input(SHAPE)
    branches = {}
    for name in NAMES[number * BRANCHES :][:BRANCHES]:
        x = layers.Conv2D(8, 3)(layers.Rescaling(1 / 64, offset=-2)(images))
        branches[name] = layers.Flatten()(CASES[name](x))
    features = layers.Concatenate()(list(branches.values()))
    model = keras.Model(images, layers.Dense(2, activation="softmax")(features))
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(weight.numpy() + random.uniform(-0.05, 0.3, weight.shape))
    graph = serving_graph(model, ("features",))
    assert b"_XlaMustCompile" not in _definition(graph)
    pixels = random.integers(0, 256, (3, *SHAPE), np.uint8)
    expected = graph.reference()(pixels)["features"]
    converted = convert(graph, 17)
    simplify(converted)
    session = onnxruntime.InferenceSession(converted.SerializeToString())
    (given,) = session.run(["features"], {"images": pixels})
    ends = np.cumsum([branch.shape[1] for branch in branches.values()])[:-1]
    pairs = zip(np.split(expected, ends, axis=1), np.split(given, ends, axis=1), strict=True)
    return dict(zip(branches, pairs, strict=True))


def _definition(graph: Any) -> bytes:
    definition = graph.function.get_concrete_function().graph.as_graph_def()
    return bytes(definition.SerializeToString())


@pytest.mark.parametrize(
    "name",
    [*ACTIVATIONS, *LAYERS, *(pytest.param(each, marks=pytest.mark.soak) for each in OTHER_LAYERS)],
)
def test_it_becomes_onnx_and_gives_the_same_answers(name: str) -> None:
    expected, given = compared(NAMES.index(name) // BRANCHES)[name]
    assert np.ptp(expected) > 1e-3  # else the comparison would show nothing
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(given, expected, rtol=0, atol=2e-5 * scale)


IMPOSSIBLE: dict[str, tuple[Body, str]] = {
    "lanczos": (UpSample(interpolation="lanczos3"), "be converted to ONNX .*ScaleAndTranslate"),
    "antialias": (Resize(antialias=True), "be converted to ONNX .*ScaleAndTranslate"),
    "area": (Resize(interpolation="area"), "onnx does not give Keras' answers"),
    "bicubic": (Resize(interpolation="bicubic"), "onnx does not give Keras' answers"),
    "output padding": (
        layers.Conv2DTranspose(4, 3, strides=2, output_padding=1),
        "no valid ONNX: .*pads must not contain negative",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_become_onnx_is_one_sentence(name: str, tmp_path: Path) -> None:
    body, message = IMPOSSIBLE[name]
    images = keras.Input(SHAPE)
    x = layers.Flatten()(body(layers.Conv2D(8, 3)(layers.Rescaling(1 / 64)(images))))
    model = keras.Model(images, layers.Dense(5, activation="softmax")(x))
    samples = ("noise", np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8))
    with pytest.raises(ExportError, match=message) as caught:
        export(model, tmp_path / "model", formats=["onnx"], samples=samples)
    assert str(caught.value).startswith("onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
