"""Checkpoints that are named as ResNet's and compute something else; which model reads a file."""

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from random_weights import Array
from test_goldens import GOLDENS

from keras_cnns.models import MODELS, build
from keras_cnns.models.googlenet import VARIANTS
from keras_cnns.models.resnet import ARCHITECTURES
from keras_cnns.weights import WeightsError, load
from keras_cnns.weights.assignment import load_tensors
from keras_cnns.weights.structure import CANDIDATES, variables_of

SHAPE = (32, 32, 3)


def zeros(golden: str) -> dict[str, Array]:
    """Return a checkpoint of a golden file's names and shapes."""
    shapes = json.loads((GOLDENS / f"{golden}.json").read_text())["tensors"]
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def resnet50() -> keras.Model:
    """A model for tests whose files do not fit it, so that it is never changed."""
    return build("resnet50", input_shape=SHAPE, classes=10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conv1.0.weight", "a stem of several convolutions: conv1.0.weight"),
        ("layer2.0.aa.filt", "blur pooling (timm's resnetblur50): layer2.0.aa.filt"),
        ("layer1.0.se.fc1.weight", "squeeze-and-excitation (timm's seresnet50)"),
        ("layer1.0.se.conv.weight", "efficient channel attention (timm's ecaresnet50d)"),
        ("layer1.0.conv2.fc1.weight", "split attention (timm's resnest50d)"),
        ("layer1.0.conv2.paths.0.conv.weight", "selective kernels (timm's skresnet50)"),
        ("layer1.0.downsample.2.weight", "pooling in its projections (timm's ecaresnetlight)"),
    ],
)
def test_variants_are_refused_by_the_names_of_their_tensors(
    resnet50: keras.Model, name: str, message: str
) -> None:
    tensors = {**zeros("torchvision_resnet50"), name: np.zeros(1, "float32")}
    with pytest.raises(WeightsError) as error:
        load_tensors(resnet50, tensors, "FILE")
    line = str(error.value).splitlines()[0]
    assert line.startswith(f"FILE is from a network with {message}")
    assert line.endswith("; keras_cnns has no such model")


@pytest.mark.parametrize("golden", ["torchvision_resnet50", "timm_resnetv2_50"])
def test_group_normalisation_is_refused(resnet50: keras.Model, golden: str) -> None:
    tensors = {name: each for name, each in zeros(golden).items() if "running" not in name}
    with pytest.raises(WeightsError, match="normalisation without running statistics"):
        load_tensors(resnet50, tensors, "FILE")


@pytest.mark.parametrize(
    ("architecture", "is_refused"),
    [
        ("resnetblur18", True),
        ("ResNetBlur50.bt_in1k", True),
        ("resnetaa50.a1h_in1k", True),
        ("seresnextaa101d_32x8d", True),
        ("resnet18", False),
        ("resnet18.a1_in1k", False),
        ("tv_resnet18", False),
        ("my_network", False),
    ],
)
def test_metadata_distinguish_pooling_without_weights(
    architecture: str, is_refused: bool, tmp_path: Path
) -> None:
    tensors = {name: np.ones_like(each) for name, each in zeros("torchvision_resnet18").items()}
    file = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(tensors, file, metadata={"architecture": architecture})
    model = build("resnet18", input_shape=SHAPE, classes=10)
    if is_refused:
        with pytest.raises(
            WeightsError, match=f"its metadata gives the architecture {architecture}"
        ):
            load(model, file)
    else:
        load(model, file)


def write_resnet18(file: Path, metadata: dict[str, str] | None = None) -> None:
    tensors = {name: np.ones_like(each) for name, each in zeros("torchvision_resnet18").items()}
    safetensors.numpy.save_file(tensors, file, metadata)


@pytest.fixture(scope="module")
def resnet18() -> keras.Model:
    return build("resnet18", input_shape=SHAPE, classes=10)


@pytest.mark.parametrize(
    ("name", "is_refused"),
    [
        ("resnetblur50-84f4748f", True),
        ("resnetblur18", True),
        ("ResNetBlur50.bt_in1k", True),
        ("timm_resnetblur50", True),
        ("resnetaa50_a1h-4cf422b3", True),
        ("my-resnetaa101d.sw_in12k", True),
        ("model", False),
        ("resnet18", False),
        ("resnet18-f37072fd", False),
        ("resnet50_a1_0-14fe96d1", False),
        ("resnet50-0676ba61", False),
        ("tv_resnet50-epoch5", False),
        ("resnet18_aa1", False),
        ("resnet18-blur-augmented", False),
        ("resnet18_blurred50", False),
        ("resnetaa1", False),
        ("resnetaa500_steps", False),
        ("resnet_blur50", False),
        ("resnetblurred", False),
        ("blur18_resnet18", False),
        ("resnet18_distilled_from_resnetblur50", False),
        ("teacher-resnetaa50-student-resnet18", False),
        ("densenetblur121d", False),
        ("darknetaa53", False),
    ],
)
def test_the_name_of_a_file_distinguishes_pooling_without_weights(
    name: str, is_refused: bool, resnet18: keras.Model, tmp_path: Path
) -> None:
    file = tmp_path / f"{name}.safetensors"
    write_resnet18(file)
    if is_refused:
        with pytest.raises(
            WeightsError, match=r"pooling before its strides \(its file name\); keras_cnns has no"
        ):
            load(resnet18, file)
    else:
        load(resnet18, file)


def test_metadata_precede_the_name_of_a_file(resnet18: keras.Model, tmp_path: Path) -> None:
    file = tmp_path / "resnetblur18.safetensors"
    write_resnet18(file, {"architecture": "resnet18"})
    load(resnet18, file)


@pytest.mark.parametrize(
    ("config", "is_refused"),
    [
        (b'{"architecture": "resnetblur50", "num_classes": 10}', True),
        (b'{"architecture": "resnet18"}', False),
        (b'{"architecture": ["resnetblur50"]}', False),
        (b'{"architectures": ["ResNetForImageClassification"]}', False),
        (b'["resnetblur50"]', False),
        (b'{"architecture": "resnetblur50"', False),
        (b"\xff\xfe", False),
        (b"", False),
        (b"[" * 50_000, False),
        (b'{"architecture": "resnetblur50"}' + b" " * (1 << 20), False),
    ],
)
def test_the_configuration_of_hugging_face_is_read(
    config: bytes, is_refused: bool, resnet18: keras.Model, tmp_path: Path
) -> None:
    """It lies beside the file; one that is damaged or too long is ignored."""
    file = tmp_path / "model.safetensors"
    write_resnet18(file)
    (tmp_path / "config.json").write_bytes(config)
    if is_refused:
        with pytest.raises(WeightsError, match=r"its config\.json gives the architecture resnetbl"):
            load(resnet18, file)
    else:
        load(resnet18, file)


def test_a_configuration_that_is_no_file_is_ignored(resnet18: keras.Model, tmp_path: Path) -> None:
    """Opening a named pipe would wait for a writer without end."""
    write_resnet18(tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "config.json")
    load(resnet18, tmp_path / "model.safetensors")


def widened(tensors: dict[str, Array]) -> dict[str, Array]:
    """Return the tensors of wide_resnet50_2: bottlenecks of twice the width."""
    wide = {}
    for name, each in tensors.items():
        shape = list(each.shape)
        if name.startswith("layer") and "downsample" not in name and shape:
            axes = {"conv1": [0], "bn1": [0], "conv2": [0, 1], "bn2": [0], "conv3": [1]}
            for axis in axes.get(name.split(".")[2], []):
                shape[axis] *= 2
        wide[name] = np.broadcast_to(np.float32(0), shape)
    return wide


@pytest.mark.parametrize(
    ("tensors", "model", "readers"),
    [
        (zeros("torchvision_resnet50"), "resnet34", "resnet50 or resnet50_v1"),
        (zeros("torchvision_resnext50_32x4d"), "resnet50", "resnext50_32x4d"),
        (zeros("timm_resnetv2_50"), "resnet18", "resnet50_v2"),
        (zeros("torchvision_googlenet"), "googlenet", "googlenet_tv"),
        (widened(zeros("torchvision_resnet50")), "resnet34", None),
        (widened(zeros("torchvision_resnet50")), "resnet50", None),
        ({**zeros("torchvision_resnet50"), "x": np.zeros(1, "float32")}, "resnet18_v2", None),
    ],
)
def test_only_a_model_that_reads_the_file_is_recommended(
    tensors: dict[str, Array], model: str, readers: str | None
) -> None:
    with pytest.raises(WeightsError) as error:
        load_tensors(build(model, input_shape=SHAPE, classes=10), tensors, "FILE")
    line = str(error.value).splitlines()[0]
    assert (f"{readers} can load it" in line) if readers else ("can load it" not in line)


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_structure_has_the_parameters_of_the_model(name: str) -> None:
    counts = {"moving_mean": 0, "moving_variance": 0}
    variables = [*variables_of(name, 3)]
    found = sum(counts.get(variable, int(np.prod(shape))) for _, variable, shape in variables)
    features, classes = 1024, 1000
    if name not in VARIANTS:
        features, classes = ARCHITECTURES[name].filters[-1], ARCHITECTURES[name].classes
    assert found + (features + 1) * classes == MODELS[name].cost.parameters


def is_deep(name: str) -> bool:
    """Return whether building a model takes more than a second."""
    return name in ARCHITECTURES and sum(ARCHITECTURES[name].blocks) > 16


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.soak] * is_deep(name)) for name in CANDIDATES],
)
def test_the_structure_has_the_variables_of_the_model(name: str) -> None:
    model = build(name, input_shape=(32, 32, 1), include_top=False)
    expected = {
        (layer.name, variable.name, tuple(variable.shape))
        for layer in model.layers
        for variable in layer.weights
    }
    assert set(variables_of(name, 1)) == expected
