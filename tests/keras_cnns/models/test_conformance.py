"""Every model of the registry is tested by the same rules; one without a golden row fails.

The golden file has, for the paper's input size: trainable parameters, multiply-adds, and a digest
of the layers' names, which are checkpoint API. After an intended change,
`python tests/keras_cnns/models/test_conformance.py` rewrites it.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.models import MODELS, build, cost
from keras_cnns.models.googlenet import VARIANTS
from keras_cnns.models.heads import deep_recursion
from keras_cnns.models.resnet import ARCHITECTURES, Architecture, resnet

GOLDEN = Path(__file__).with_name("golden.json")


def measure(model: keras.Model) -> dict[str, Any]:
    names = "\n".join(layer.name for layer in model.layers)
    counted = cost(model)
    return {
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
        "layers": len(model.layers),
        "layer_names": hashlib.sha256(names.encode()).hexdigest(),
    }


@cache
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    return content


def tiny(kind: str | Architecture, **options: Any) -> keras.Model:
    """Return a model of this kind for 32x32 images and 3 classes."""
    options = {"input_shape": (32, 32, 3), "classes": 3, **options}
    return build(kind, **options) if isinstance(kind, str) else resnet(kind, **options)


def kind_of(name: str) -> str | Architecture:
    """Return the model with one narrow block in each stage: `resnet50` and 101 are then equal."""
    if name in VARIANTS:
        return name
    row = ARCHITECTURES[name]
    narrowest = 128 if row.groups > 1 else 16  # 32 groups need a width of 64
    filters = tuple(narrowest * 2**stage for stage in range(len(row.blocks)))
    return replace(row, blocks=(1,) * len(row.blocks), filters=filters)


KINDS = {kind_of(name): name for name in reversed(MODELS)}  # each by its first model


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    yield
    keras.utils.clear_session()


def test_the_golden_file_has_a_row_for_each_model() -> None:
    assert list(golden()) == list(MODELS)


def by_depth(name: str) -> Any:
    """Leave the models of more than 100 layers, which take long to build, to `make soak`."""
    depth = re.search(r"[0-9]+", name)  # None for GoogLeNet, which has 22 layers
    is_deep = depth is not None and int(depth[0]) > 100
    return pytest.param(name, marks=pytest.mark.soak) if is_deep else name


@pytest.mark.parametrize("name", [*map(by_depth, MODELS)])
def test_size_and_layer_names_are_golden(name: str) -> None:
    model = build(name)
    measured = measure(model)
    assert measured == golden()[name]
    assert MODELS[name].cost == cost(model)
    assert model.name == name
    classes = 1000 if model.input.shape[1] == 224 else 10
    assert model.output.shape == (None, classes)


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_it_survives_saving_and_configuration(kind: str | Architecture, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    model = tiny(kind)
    expected = model(images)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.saving.load_model(tmp_path / "model.keras")(images), expected
    )
    again = model.__class__.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(images), expected)


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_a_step_of_training_lowers_the_loss(kind: str | Architecture) -> None:
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(6, 32, 32, 3)).astype("float32")
    labels = np.arange(6) % 3
    model = tiny(kind, aux_heads=True)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # dropout would be noise on the loss
    outputs = list(model.output)
    assert outputs == ["main", *(f"aux{number}" for number in range(1, len(outputs)))]
    assert all(output.shape == (None, 3) for output in model.output.values())
    model.compile(
        keras.optimizers.SGD(1e-3),
        loss=dict.fromkeys(outputs, "sparse_categorical_crossentropy"),
        run_eagerly=True,
    )
    targets = dict.fromkeys(outputs, labels)
    before, after = (
        model.train_on_batch(images, targets, return_dict=True)["loss"] for _ in range(2)
    )
    assert after < before


def test_the_deepest_model_can_be_loaded(tmp_path: Path) -> None:
    model = build("resnet164_v2", input_shape=(8, 8, 3))
    model.save(tmp_path / "model.keras")
    with deep_recursion():
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert measure(loaded)["layer_names"] == golden()["resnet164_v2"]["layer_names"]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: measure(build(name)) for name in MODELS}, indent=1) + "\n")
