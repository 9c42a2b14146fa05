"""A conformance suite: every architecture family of the registry becomes every format.

`export` itself proves each format equal to Keras. `make test` exports one residual family of each
kind to ONNX; `make soak` exports every family to every format.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from tensorflow.core.protobuf import saved_model_pb2

from keras_cnns.models import MODELS
from keras_cnns.models.googlenet import VARIANTS, googlenet
from keras_cnns.models.resnet import ARCHITECTURES, Architecture, resnet
from keras_cnns_export import export
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.formats.openvino import has_bfloat16
from keras_cnns_export.options import Quantization


def smallest(row: Architecture) -> Architecture:
    """Return a row with two stages of two blocks, and the fewest filters that allow 32 groups."""
    return dataclasses.replace(row, blocks=(2, 2), filters=(64, 128))


# Rows that differ in depth and width alone are one family, named by its first row.
RESIDUAL: dict[Architecture, str] = {}
for _name, _row in ARCHITECTURES.items():
    RESIDUAL.setdefault(smallest(_row), _name)
FAMILIES: dict[str, Callable[[], Any]] = {
    **{name: partial(resnet, row, (32, 32, 3), 2) for row, name in RESIDUAL.items()},
    **{name: partial(googlenet, name, (16, 16, 3), 2) for name in VARIANTS},
}
GROUPED = "resnext50_32x4d"
ALL = [name for name, row in FORMATS.items() if row.precision != "bfloat16" or has_bfloat16()]
# One family of each kind: both blocks, option A, pre-activation, both strides of V2, no shortcut.
QUICK = [
    *((name, ["onnx"]) for name in ("resnet18", "resnet50", "resnet8", "resnet18_v2")),
    *((name, ["onnx"]) for name in ("resnet50_v2_keras", "plain8")),
    (GROUPED, ["saved_model", "onnx"]),
]
CASES = [
    *QUICK,
    *(pytest.param(name, ALL, marks=pytest.mark.soak, id=f"{name}-all") for name in FAMILIES),
]


def decided(model: Any) -> tuple[Any, Any]:
    """Give a model weights that tell dark images from bright ones; return images and classes.

    The classifier's weights point from one class's mean features to the other's, so that int8
    keeps the answers, as it does after a training.
    """
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "batch_norm" in weight.path or "_bn" in weight.path:  # statistics that are not 0 and 1
            weight.assign(weight.numpy() + random.uniform(0, 0.2, weight.shape))
    classes = np.arange(32) % 2
    noise = random.integers(0, 120, (32, *model.input_shape[1:]))
    images = (noise + 130 * classes[:, None, None, None]).astype(np.uint8)
    head = model.get_layer("logits")
    features = keras.Model(model.inputs, head.input).predict_on_batch(images.astype("float32"))
    dark, bright = (features[classes == number].mean(axis=0) for number in (0, 1))
    kernel = (bright - dark) * 4 / np.square(bright - dark).sum()
    head.kernel.assign(np.stack([-kernel, kernel], axis=1))
    head.bias.assign(np.array([1, -1]) * ((dark + bright) / 2 @ kernel))
    return images, classes


@pytest.mark.parametrize(("family", "formats"), CASES)
def test_a_family_becomes_every_format(family: str, formats: list[str], tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = FAMILIES[family]()
    version = export(
        model,
        tmp_path / "model",
        labels=["dark", "bright"],
        formats=formats,
        samples=("generated", decided(model)),
        quantization=Quantization(samples=16),
    )
    if family == GROUPED:
        _check_grouped_convolutions(version, model)


def _check_grouped_convolutions(version: Path, model: Any) -> None:
    convolutions = [each for each in model.layers if isinstance(each, keras.layers.Conv2D)]
    nodes = [
        node for node in onnx.load(version / "model.onnx").graph.node if node.op_type == "Conv"
    ]
    groups = [each.i for node in nodes for each in node.attribute if each.name == "group"]
    assert len(nodes) == len(convolutions)
    assert sorted(groups) == sorted(each.groups for each in convolutions)
    # On CPUs without AVX-512, a grouped convolution must not be fused (see `_not_fused`).
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    counts = [sum(node.op == "EnsureShape" for node in each.node_def) for each in functions]
    assert max(counts) == sum(each.groups > 1 for each in convolutions)
    # TensorFlow Serving runs functions that XLA must compile only if a flag permits it.
    assert b"_XlaMustCompile" not in (version / "saved_model.pb").read_bytes()


def test_every_model_of_the_registry_is_of_a_family() -> None:
    assert set(ARCHITECTURES) | set(VARIANTS) == set(MODELS)


@pytest.mark.soak
def test_convnext_of_keras_applications_becomes_onnx(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.applications.ConvNeXtTiny(weights=None, input_shape=(32, 32, 3), classes=2)
    version = export(model, tmp_path / "model", labels=["dark", "bright"], formats=["onnx"])
    assert (version / "model.onnx").exists()
