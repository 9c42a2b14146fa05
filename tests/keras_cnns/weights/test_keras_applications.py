"""Weights of keras.applications in every format that Keras writes give the same logits."""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from random_weights import assert_agree, random_images, random_tensor
from tensor_shapes import tensor_shapes

from keras_cnns.models import build
from keras_cnns.weights import WeightsError, read
from keras_cnns.weights.assignment import find_origin, load_tensors
from keras_cnns.weights.keras_applications import ORIGINS, accumulated_biases

TOLERANCE = 1e-4  # of the logits' range
SHAPE = (64, 64, 3)
MODELS = [("ResNet50", "resnet50_v1"), ("ResNet50V2", "resnet50_v2_keras")]


def original(name: str, classes: int = 10) -> keras.Model:
    """Return the model with random weights, biases and statistics."""
    model = getattr(keras.applications, name)(
        weights=None, input_shape=SHAPE, classes=classes, classifier_activation=None
    )
    for layer in model.layers:
        for variable in layer.weights:
            tensor = f"{layer.name}/{variable.name}"
            variable.assign(random_tensor(tensor, tuple(variable.shape)))
    return model


def save_by_layer_names(model: keras.Model, path: Path, head: str) -> None:
    """Write what Keras 2 wrote and keras.applications publishes."""
    with h5py.File(path, "w") as file:
        for layer in model.layers:
            name = head if layer.name == "predictions" else layer.name
            for variable in layer.weights:
                file[f"{name}/{name}/{variable.name}:0"] = variable.numpy()


@pytest.mark.parametrize(("theirs", "ours"), MODELS)
def test_the_original_gives_the_same_logits(theirs: str, ours: str, tmp_path: Path) -> None:
    network, images = original(theirs), random_images((2, *SHAPE))
    published = tmp_path / "published.h5"
    save_by_layer_names(network, published, "probs")
    model = build(
        ours, input_shape=SHAPE, classes=10, classifier_activation=None, weights=published
    )
    assert_agree(np.asarray(model(images)), np.asarray(network(images)), TOLERANCE)

    save_by_layer_names(network, tmp_path / "named.h5", "predictions")
    expected = read(tmp_path / "named.h5")
    for name in ("net.weights.h5", "net.keras"):
        network.save_weights(tmp_path / name) if "weights" in name else network.save(
            tmp_path / name
        )
        found = read(tmp_path / name)
        assert found.keys() == expected.keys()
        for tensor in expected:
            np.testing.assert_array_equal(found[tensor], expected[tensor])


def test_every_tensor_of_a_deeper_model_is_assigned() -> None:
    """`make test-parity` compares the logits of all four deeper models."""
    theirs, ours = "ResNet101V2", "resnet101_v2_keras"
    network = getattr(keras.applications, theirs)(weights=None, input_shape=SHAPE, classes=10)
    tensors = {
        f"{layer.name}/{variable.name}": np.zeros(variable.shape, "float32")
        for layer in network.layers
        for variable in layer.weights
    }
    report = load_tensors(build(ours, input_shape=SHAPE, classes=10), tensors, theirs)
    assert report.tensors == len(tensors)
    assert not report.ignored_heads


@pytest.mark.parametrize(
    ("theirs", "ours", "reason"),
    [
        (
            "ResNet50",
            "resnet50",
            "a stage's stride in its first 1x1; resnet50 normalises after convolutions, and "
            "has a stage's stride in its first 3x3; resnet50_v1 can load it",
        ),
        ("ResNet50V2", "resnet50_v2", "stride in its last block; resnet50_v2 normalises"),
        ("ResNet50V2", "resnet50_v1", "resnet50_v2_keras can load it"),
        ("ResNet50", "googlenet_tv", "resnet50_v1 can load it"),
    ],
)
def test_a_model_with_other_strides_is_refused_and_the_right_one_named(
    theirs: str, ours: str, reason: str
) -> None:
    layout = "v2_keras" if theirs.endswith("V2") else "v1"
    (origin,) = (each for each in ORIGINS if each.layouts == (f"resnet_{layout}",))
    shapes = tensor_shapes(f"resnet50_{layout}", origin)
    model = build(ours, input_shape=SHAPE, classes=10)
    with pytest.raises(WeightsError) as error:
        load_tensors(
            model, {name: np.zeros(shape, "float32") for name, shape in shapes.items()}, "net.h5"
        )
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("norm", "biases"),
    [
        ("conv2_block1_preact_bn", []),
        ("conv2_block2_1_bn", []),
        ("conv2_block2_preact_bn", ["2_block1_0", "2_block1_3"]),
        ("conv3_block1_preact_bn", ["2_block1_0", "2_block1_3", "2_block2_3"]),
        ("post_bn", ["3_block1_0", "3_block1_3"]),
    ],
)
def test_the_biases_that_precede_a_normalisation_of_v2(norm: str, biases: list[str]) -> None:
    found = accumulated_biases(norm, {1: 2, 2: 1})
    assert found == [f"conv{name}_conv/bias" for name in biases]


@pytest.mark.parametrize("name", ["DenseNet121", "MobileNet", "VGG16"])
def test_other_networks_of_keras_applications_are_not_called_a_resnet(name: str) -> None:
    """DenseNet has layers named `conv2_block1_1_conv` too."""
    network = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=SHAPE)
    names = [
        f"{layer.name}/{variable.name}" for layer in network.layers for variable in layer.weights
    ]
    with pytest.raises(WeightsError, match="match none of the known origins"):
        find_origin(dict.fromkeys(names, np.zeros(1, "float32")), "net.h5")
