"""`keras-cnns weights convert` writes a file of ours, or nothing if the weights do not fit."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from random_weights import Array, random_images
from test_goldens import read_golden

from keras_cnns import cli
from keras_cnns.models import build
from keras_cnns.weights import WeightsError, convert, read


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory, "torchvision_resnet18")


@pytest.fixture(scope="module")
def googlenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory, "torchvision_googlenet")


def save(tmp_path_factory: pytest.TempPathFactory, golden: str) -> Path:
    path = tmp_path_factory.mktemp("files") / f"{golden}.safetensors"
    safetensors.numpy.save_file(read_golden(golden)[1], path)
    return path


def answer(model: keras.Model) -> Array:
    return np.asarray(model(random_images((1, *model.input_shape[1:]))))


def test_the_command_writes_the_models_own_weights(resnet18: Path, tmp_path: Path) -> None:
    to = tmp_path / "resnet18.weights.h5"
    arguments = ("weights", "convert", str(resnet18), "--model", "resnet18", "--to", str(to))
    process = subprocess.run(
        [sys.executable, "-m", "keras_cnns.cli", *arguments],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert not process.stderr
    assert process.stdout == (
        f"{to}: 11,181,642 parameters of resnet18, from 102 tensors of torchvision's or timm's "
        "ResNet\n"
    )
    kernel = read(resnet18)["layer4.1.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(read(to)["stage4_block2_conv2/kernel"], kernel)
    assert list(tmp_path.iterdir()) == [to]


def test_a_whole_model_can_be_loaded(resnet18: Path, tmp_path: Path) -> None:
    convert(resnet18, "resnet18", tmp_path / "resnet18.keras")
    loaded = keras.saving.load_model(tmp_path / "resnet18.keras")
    assert loaded.input_shape == (None, 224, 224, 3)
    np.testing.assert_array_equal(
        answer(loaded), answer(build("resnet18", classes=10, weights=resnet18))
    )


def test_a_model_of_this_project_is_not_built_again_with_another_image_size(
    tmp_path: Path,
) -> None:
    own, to = tmp_path / "own.keras", tmp_path / "new.keras"
    build("resnet20", (32, 32, 1), 4).save(own)
    with pytest.raises(WeightsError, match=r"own\.keras is a model of keras-cnns already, whose"):
        convert(own, "resnet20", to)
    assert not to.exists()
    convert(own, "resnet20", tmp_path / "new.weights.h5")  # which has no image size


def test_channels_and_classes_are_the_files(resnet18: Path, tmp_path: Path) -> None:
    tensors = safetensors.numpy.load_file(resnet18)
    tensors["conv1.weight"] = np.ascontiguousarray(tensors["conv1.weight"][:, :1])
    safetensors.numpy.save_file(tensors, tmp_path / "grey.safetensors")
    for name in ("fc.weight", "fc.bias"):
        del tensors[name]
    safetensors.numpy.save_file(tensors, tmp_path / "body.safetensors")
    for name in ("grey", "body"):
        file, to = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.weights.h5"
        convert(file, "resnet18", to)
    assert read(tmp_path / "grey.weights.h5")["stem_conv/kernel"].shape == (7, 7, 1, 64)
    assert read(tmp_path / "grey.weights.h5")["logits/kernel"].shape == (512, 10)
    assert "logits/kernel" not in read(tmp_path / "body.weights.h5")


def test_auxiliary_heads_come_along_where_asked(
    googlenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["weights", "convert", str(googlenet), "--model", "googlenet_tv", "--to"]
    assert cli.run(cli.app, [*arguments, str(tmp_path / "a.weights.h5")], "keras-cnns") == 0
    ignored = capsys.readouterr().out.splitlines()[1]
    assert ignored == f"heads of {googlenet} that were ignored: aux1, aux2 (see --aux-heads)"
    arguments += [str(tmp_path / "b.weights.h5"), "--aux-heads"]
    assert cli.run(cli.app, arguments, "keras-cnns") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert "aux2_dense/kernel" not in read(tmp_path / "a.weights.h5")
    assert read(tmp_path / "b.weights.h5")["aux2_dense/kernel"].shape == (2048, 1024)


@pytest.mark.parametrize(
    ("model", "to", "status", "message"),
    [
        (
            "resnet34",
            "out.weights.h5",
            1,
            "does not fit resnet34 (resnet18 or resnet18_v1 can load it): 80 missing (layer1.",
        ),
        ("resnet18_v2", "out.weights.h5", 1, "resnet18 or resnet18_v1 can load it"),
        ("resnet19", "out.weights.h5", 2, "there is no model 'resnet19'; did you mean"),
        ("resnet18", "out.h5", 2, "it must end in .weights.h5 or .keras"),
        ("resnet18", "nowhere/out.keras", 2, "there is no directory"),
    ],
)
def test_a_file_that_does_not_fit_is_reported_and_nothing_is_written(
    model: str,
    to: str,
    status: int,
    message: str,
    resnet18: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["weights", "convert", str(resnet18), "--model", model, "--to", str(tmp_path / to)]
    assert cli.run(cli.app, arguments, "keras-cnns") == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") <= cli.MAX_LINES + 1
    assert not list(tmp_path.iterdir())


def test_auxiliary_heads_that_the_file_lacks_are_not_written(
    googlenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Initial values of a new head are not the file's weights."""
    tensors = {name: each for name, each in read(googlenet).items() if not name.startswith("aux")}
    file, to = tmp_path / "body.safetensors", tmp_path / "out.weights.h5"
    safetensors.numpy.save_file(tensors, file)
    arguments = ["weights", "convert", str(file), "--model", "googlenet_tv", "--to", str(to)]
    assert cli.run(cli.app, [*arguments, "--aux-heads"], "keras-cnns") == 1
    assert f"{file} does not have the auxiliary heads aux1, aux2" in capsys.readouterr().err
    assert not to.exists()
    assert cli.run(cli.app, arguments, "keras-cnns") == 0


def test_a_projection_head_is_ignored_and_no_option_is_recommended(
    resnet18: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, to = tmp_path / "simclr.safetensors", tmp_path / "out.weights.h5"
    head = {"projector.0.weight": np.zeros((8, 512), "float32")}
    safetensors.numpy.save_file({**read(resnet18), **head}, file)
    arguments = ["weights", "convert", str(file), "--model", "resnet18", "--to", str(to)]
    assert cli.run(cli.app, arguments, "keras-cnns") == 0
    ignored = capsys.readouterr().out.splitlines()[1]
    assert ignored == f"heads of {file} that were ignored: projector"


def test_a_file_that_is_there_stays_when_the_new_one_fails(resnet18: Path, tmp_path: Path) -> None:
    to = tmp_path / "out.weights.h5"
    to.write_bytes(b"yesterday's")
    arguments = ["weights", "convert", str(resnet18), "--model", "resnet34", "--to", str(to)]
    assert cli.run(cli.app, arguments, "keras-cnns") == 1
    assert to.read_bytes() == b"yesterday's"
