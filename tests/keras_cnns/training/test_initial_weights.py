"""The weights that a training starts from are found before its images are read."""

import hashlib
from pathlib import Path

import keras
import numpy as np
import pytest
from test_goldens import read_golden
from torch_writer import save_torch

from keras_cnns import cli
from keras_cnns.models import build
from keras_cnns.recipes import Recipe, list_recipes, load_recipe
from keras_cnns.training import build_model, train
from keras_cnns.training.dry_run import estimate
from keras_cnns.training.initial_weights import check_initial_weights
from keras_cnns.training.lr_finder import find_learning_rate
from keras_cnns.weights import WeightsError, pretrained
from keras_cnns.weights.download import OFFLINE, DownloadError, cache_path
from keras_cnns.weights.pretrained import PRETRAINED, Checksum

NAME = "torchvision/resnet18.IMAGENET1K_V1"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("KERAS_HOME", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.setenv(OFFLINE, "1")


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of NAME in the cache, with random weights and ten classes."""
    path = cache_path(PRETRAINED[NAME])
    path.parent.mkdir(parents=True)
    save_torch(read_golden("torchvision_resnet18")[1], path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = PRETRAINED[NAME]._replace(checksum=Checksum("sha256-prefix", digest))
    monkeypatch.setitem(PRETRAINED, NAME, row)
    return path


def recipe(*overrides: str, weights: str = NAME) -> Recipe:
    changes = ("model.name=resnet18", "data.path=no/such/folder", f"model.weights={weights}")
    return load_recipe("finetune-folder", [*changes, "data.resize_shorter=256", *overrides])


def test_recipes_with_published_weights_state_their_preprocessing() -> None:
    found = []
    for name in list_recipes():
        loaded = load_recipe(name)
        if pretrained.is_name(loaded.model.weights):
            row = pretrained.find(loaded.model.weights, loaded.model.name)
            assert (loaded.data.image_size, loaded.data.resize_shorter) == (row.crop, row.resize)
            assert (loaded.data.mean, loaded.data.std) == (row.mean, row.std)
            found.append(name)
    assert "finetune-folder" in found


@pytest.mark.parametrize("weights", [NAME, "imagenet"])
def test_weights_are_found_before_the_images(weights: str, tmp_path: Path) -> None:
    """The folder does not exist either, and the weights are reported."""
    for attempt in (
        lambda each: train(each, tmp_path / "run"),
        estimate,
        find_learning_rate,
    ):
        with pytest.raises(DownloadError, match=f"^{NAME} cannot be downloaded"):
            attempt(recipe(weights=weights))
        with pytest.raises(WeightsError, match=r"^model\.weights: there is no file .*net\.pth"):
            attempt(recipe(weights="net.pth"))
    assert not (tmp_path / "run" / "model.keras").exists()


def test_the_command_can_stay_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(OFFLINE, "")
    arguments = ["train", "--recipe", "finetune-folder", "--run", str(tmp_path / "run")]
    status = cli.run(cli.app, [*arguments, "--offline"], "keras-cnns")
    error = capsys.readouterr().err
    assert status != 0
    assert "KERAS_CNNS_OFFLINE disables downloads" in error
    assert "resnet50-11ad3fa6.pth" in error


def test_published_weights_are_loaded_after_the_recipes_normalisation(
    cached: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = recipe("data.image_size=64", "data.resize_shorter=64")
    check_initial_weights(small)
    assert capsys.readouterr().err == (
        f"the weights {NAME} were evaluated with image_size = 224 and resize_shorter = 256; the "
        "recipe has 64 and 64\n"
    )
    model = build_model(small, classes=3)
    assert sum(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) == 1
    body = build("resnet18", (64, 64, 3), include_top=False, weights=cached)
    for layer in body.layers:
        for found, expected in zip(
            model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def test_the_sizes_of_the_published_evaluation_are_not_reported(
    cached: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_initial_weights(recipe())
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.mean=[0, 0, 0]",),
        ("data.std=[127.5, 127.5, 127.5]",),
        ("data.channels=1", "data.mean=[123.675]", "data.std=[58.395]"),
    ],
)
def test_another_normalisation_is_an_error_with_the_values(
    overrides: tuple[str, ...], cached: Path
) -> None:
    wrong = recipe(*overrides)
    with pytest.raises(ValueError, match=f"do not fit the weights {NAME}") as error:
        check_initial_weights(wrong)
    advice = str(error.value).partition(": use ")[2]
    assert advice == (
        '--set data.channels=3 --set "data.mean=[123.675, 116.28, 103.53]" '
        '--set "data.std=[58.395, 57.12, 57.375]"'
    )
    corrections = [each.strip(' "') for each in advice.split("--set ") if each]
    check_initial_weights(recipe(*overrides, *corrections))


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="are weights of resnet50, not of resnet18"):
        check_initial_weights(recipe(weights="torchvision/resnet50.IMAGENET1K_V2"))
