"""A model that is built with a name of published weights reads raw RGB pixels."""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from file_server import Answer, FileServer
from random_weights import Array, assert_agree, random_images
from test_goldens import read_golden
from test_keras_applications import original, save_by_layer_names
from torch_writer import save_torch

from keras_cnns import cli
from keras_cnns.models import MODELS, build
from keras_cnns.models.heads import normalised_input
from keras_cnns.recipes import Preprocessing
from keras_cnns.weights import WeightsError, download
from keras_cnns.weights.download import cache_path, url_of
from keras_cnns.weights.pretrained import (
    DEFAULT,
    PRETRAINED,
    Checksum,
    default_for,
    find,
    is_name,
    rows_for,
)

pytest_plugins = ("download_fixtures",)

RESNET18 = "torchvision/resnet18.IMAGENET1K_V1"
RESNET50 = "torchvision/resnet50.IMAGENET1K_V2"


def pixels() -> Array:
    """Return raw RGB images [2, 64, 64, 3] in levels, some of them beyond 0 and 255."""
    return 120 + 30 * random_images((2, 64, 64, 3))


def publish(server: FileServer, name: str, file: Path, patch: pytest.MonkeyPatch) -> None:
    """Put a file on the server in place of the published one, with its checksum in the table."""
    row, content, headers = PRETRAINED[name], file.read_bytes(), {}
    if row.checksum.kind == "hub-revision":
        headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        headers["X-Repo-Commit"] = "0" * 40
    elif row.checksum.kind == "md5":
        patch.setitem(
            PRETRAINED,
            name,
            row._replace(checksum=Checksum("md5", hashlib.md5(content).hexdigest())),
        )
    else:
        digest = hashlib.sha256(content).hexdigest()[:8]
        patch.setitem(PRETRAINED, name, row._replace(checksum=Checksum("sha256-prefix", digest)))
    path = url_of(row).removeprefix(server.url)
    server.answers[path] = Answer(content, headers=headers)


@pytest.fixture
def resnet18(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's ResNet-18, with random weights and ten classes, on the server."""
    save_torch(read_golden("torchvision_resnet18")[1], tmp_path / "net.pth")
    publish(server, RESNET18, tmp_path / "net.pth", monkeypatch)
    return tmp_path / "net.pth"


OPTIONS: dict[str, Any] = {
    "input_shape": (64, 64, 3),
    "classes": 10,
    "classifier_activation": None,
}


def test_raw_pixels_go_in(resnet18: Path) -> None:
    model = build("resnet18", **OPTIONS, weights=RESNET18)
    assert [layer.name for layer in model.layers[:2]] == ["images", "normalise"]
    expected = build("resnet18", **OPTIONS, weights=resnet18)
    normalised = (pixels() / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert_agree(np.asarray(model(pixels())), np.asarray(expected(normalised)), 1e-4)


def test_imagenet_is_the_default_of_the_model(resnet18: Path, server: FileServer) -> None:
    one = build("resnet18", **OPTIONS, weights="imagenet")
    count = len(server.requests)
    other = build("resnet18", **OPTIONS, weights=RESNET18)
    np.testing.assert_array_equal(np.asarray(one(pixels())), np.asarray(other(pixels())))
    assert len(server.requests) == count


def test_an_input_tensor_is_normalised_already(resnet18: Path) -> None:
    row = PRETRAINED[RESNET18]
    images = normalised_input((64, 64, 3), row.mean, row.std)
    options = {**OPTIONS, "input_shape": None}
    model = build("resnet18", **options, input_tensor=images, weights=RESNET18)
    assert sum(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) == 1
    expected = build("resnet18", **OPTIONS, weights=RESNET18)
    np.testing.assert_array_equal(np.asarray(model(pixels())), np.asarray(expected(pixels())))


def test_the_options_of_a_model_stay(resnet18: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build(
        "resnet18",
        input_shape=(None, None, 3),
        include_top=False,
        pooling="avg",
        features=("stage2",),
        weights=RESNET18,
    )
    shapes = {name: tuple(each.shape) for name, each in model(pixels()).items()}
    assert shapes == {"main": (2, 512), "stage2": (2, 8, 8, 128)}
    assert not caplog.records
    build("resnet18", (64, 64, 3), 7, weights=RESNET18)
    assert "the file has 10 classes and the model 7" in caplog.text


@pytest.mark.parametrize(
    ("name", "theirs", "preprocess"),
    [
        ("keras/resnet50", "ResNet50", keras.applications.resnet.preprocess_input),
        ("keras/resnet50v2", "ResNet50V2", keras.applications.resnet_v2.preprocess_input),
    ],
)
def test_keras_applications_reads_the_same_pixels(
    name: str,
    theirs: str,
    preprocess: Any,
    server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ResNet v1 reads BGR there, and RGB here."""
    network = original(theirs)
    save_by_layer_names(network, tmp_path / "net.h5", "probs")
    with h5py.File(tmp_path / "net.h5") as file:
        assert "conv1_conv" in file
    publish(server, name, tmp_path / "net.h5", monkeypatch)
    model = build(PRETRAINED[name].model, **OPTIONS, weights=name)
    expected = network(preprocess(pixels().copy()))
    assert_agree(np.asarray(model(pixels())), np.asarray(expected), 1e-4)
    with_tensor = build(
        PRETRAINED[name].model,
        **{**OPTIONS, "input_shape": None},
        weights=name,
        input_tensor=normalised_input((64, 64, 3), PRETRAINED[name].mean, PRETRAINED[name].std),
    )
    assert_agree(np.asarray(with_tensor(pixels())), np.asarray(expected), 1e-4)


def test_timms_file_is_read(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tensors = read_golden("timm_resnetv2_18")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    name = "timm/resnetv2_18.ra4_e3600_r224_in1k"
    publish(server, name, tmp_path / "model.safetensors", monkeypatch)
    model = build("resnet18_v2", **OPTIONS, weights="imagenet")
    expected = build("resnet18_v2", **OPTIONS, weights=tmp_path / "model.safetensors")
    normalised = pixels() / 127.5 - 1
    assert_agree(np.asarray(model(pixels())), np.asarray(expected(normalised)), 1e-4)


def test_torchvisions_googlenet_reads_minus_1_to_1(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_torch(read_golden("torchvision_googlenet")[1], tmp_path / "net.pth", legacy=True)
    publish(server, "torchvision/googlenet.IMAGENET1K_V1", tmp_path / "net.pth", monkeypatch)
    model = build("googlenet_tv", **OPTIONS, weights="imagenet")
    expected = build("googlenet_tv", **OPTIONS, weights=tmp_path / "net.pth")
    normalised = pixels() / 127.5 - 1
    assert_agree(np.asarray(model(pixels())), np.asarray(expected(normalised)), 1e-4)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet18", {"weights": RESNET50}, "are weights of resnet50, not of resnet18"),
        ("resnet20", {"weights": "imagenet"}, "there are no published weights of resnet20"),
        (
            "resnet50",
            {"weights": "torchvision/resnet50.IMAGENET1K_V3"},
            r"there are no published weights 'torchvision/resnet50\.IMAGENET1K_V3' of resnet50; "
            r"did you mean 'torchvision/resnet50\.IMAGENET1K_V\d'\? "
            r"\(`keras-cnns weights list resnet50` lists all weights\)",
        ),
        ("resnet50", {"weights": "timm/resnet50.a1"}, r"mean 'timm/resnet50\.a1_in1k'"),
        (
            "resnet50",
            {"weights": "imagenet", "input_shape": (224, 224, 1)},
            r"input_shape is \(224, 224, 1\); the weights .* need RGB",
        ),
    ],
)
def test_a_wrong_name_is_an_error_before_a_request(
    model: str, options: dict[str, Any], message: str, server: FileServer
) -> None:
    with pytest.raises(ValueError, match=message):
        build(model, **options)
    assert not server.requests


def test_a_path_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("timm").mkdir()
    Path("timm/own.safetensors").touch()
    assert not is_name("timm/own.safetensors")
    assert not is_name(Path("imagenet"))
    assert not is_name("models/resnet50.safetensors")
    assert is_name("timm/another")
    with pytest.raises(WeightsError, match="there is no such file"):
        build("resnet18", weights="resnet18.safetensors")


def test_every_row_is_consistent() -> None:
    assert len(PRETRAINED) == 77
    for name, row in PRETRAINED.items():
        assert row.name == name
        assert row.publisher in download.MIRRORS
        assert row.url.startswith(download.MIRRORS[row.publisher][1] + "/")
        assert row.model in MODELS
        assert len(row.mean) == len(row.std) == 3
        assert row.resize is None or row.resize >= row.crop
        assert len({each.file_name for each in PRETRAINED.values()}) == len(PRETRAINED)
    for model in {row.model for row in PRETRAINED.values()}:
        assert sum(row.default for row in rows_for(model)) == 1
        assert find(DEFAULT, model) is default_for(model)


def test_the_preprocessing_is_what_an_export_takes() -> None:
    assert PRETRAINED[RESNET50].preprocessing() == Preprocessing(232, 224).to_dict()
    assert PRETRAINED["keras/resnet50"].preprocessing() == Preprocessing(224, 224).to_dict()


def run(*arguments: str) -> int:
    return cli.run(cli.app, ["weights", *arguments], "keras-cnns")


def test_the_command_lists_the_weights_of_a_model(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_path(PRETRAINED[RESNET50]).parent.mkdir(parents=True)
    cache_path(PRETRAINED[RESNET50]).touch()
    assert run("list", "resnet50") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows_for("resnet50"))
    cells = lines[2].split()
    assert cells == ["imagenet", RESNET50, "resnet50", "98", "80.9", "232", "->", "224", "yes"]
    assert run("list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(PRETRAINED)
    assert run("list", "resnet5") == 2
    assert "did you mean" in capsys.readouterr().err
    assert run("list", "resnet20") == 2
    assert "there are no published weights of resnet20" in capsys.readouterr().err


def test_the_command_downloads_and_prints_the_path(
    resnet18: Path, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for name in (RESNET18, "resnet18"):
        assert run("get", name) == 0
        output = capsys.readouterr()
        assert output.out == f"{cache_path(PRETRAINED[RESNET18])}\n"
        assert not output.err
        counts.append(len(server.requests))
    assert counts[0] == counts[1]


def test_the_command_can_stay_offline(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(download.OFFLINE, "")  # restored after the option has set it
    assert run("get", RESNET18, "--offline") == 1
    error = capsys.readouterr().err
    assert "KERAS_CNNS_OFFLINE disables downloads" in error
    assert str(cache_path(PRETRAINED[RESNET18])) in error
    assert not server.requests


@pytest.mark.parametrize("name", ["imagenet", "torchvision/resnet18", "resnet20"])
def test_the_command_names_what_there_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("get", name) == 2
    assert "`keras-cnns weights list" in capsys.readouterr().err
