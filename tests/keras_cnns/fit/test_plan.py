"""The recipe of a plan: its reasons, its command, and errors before anything is read."""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import Answer, FileServer
from PIL import Image

from keras_cnns.data import Splits
from keras_cnns.fit import choices as choosing
from keras_cnns.fit import plan
from keras_cnns.fit.choices import Choices
from keras_cnns.fit.measurement import Measurement
from keras_cnns.fit.networks import Budget
from keras_cnns.fit.photos import Photos
from keras_cnns.fit.plan import Plan, Request, check_plan, make_plan, recipe_path, write_plan
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.training.initial_weights import check_initial_weights
from keras_cnns.weights.download import OFFLINE, cache_path, url_of
from keras_cnns.weights.pretrained import PRETRAINED, Checksum

pytest_plugins = ("download_fixtures",)

LINE = "#     keras-cnns fit "


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown key training.epoch"),
        ("data.image_size=large", "data.image_size is 'large'"),
        ("model.name=resnet21", "resnet20"),
        ("epochs=3", "does not have the form section.key=value"),
        ("data.channels=2", "data.channels is 2"),
    ],
)
def test_wrong_overrides_are_reported_before_the_folder_is_read(
    override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(Request(Path("no/such/folder"), 15, overrides=(override,)))


def test_a_mean_of_three_colours_is_no_wrong_override() -> None:
    overrides = ("data.mean=[123.7, 116.3, 103.5]", "data.std=[58.4, 57.1, 57.4]")
    with pytest.raises(ValueError, match="no/such/folder"):
        make_plan(Request(Path("no/such/folder"), 15, overrides=overrides))


def test_a_table_is_written_in_one_line(
    folder: Path, measured: list[Recipe], tmp_path: Path
) -> None:
    overrides = ("optimizer.name=adam", "optimizer.arguments={beta_1=0.8}")
    recipe = planned(folder, tmp_path / "run", weights="none", overrides=overrides)
    assert recipe.optimizer.arguments == {"beta_1": 0.8}


def test_a_plan_is_kept_for_the_same_arguments_only(tmp_path: Path) -> None:
    request = Request(tmp_path / "my photos", 15)
    run = tmp_path / "runs/photos"
    write_plan(Plan(f"{LINE}{request.arguments()}\n", "file,reason\n"), run)
    assert recipe_path(run) == tmp_path / "runs/photos.toml"
    assert tomllib.loads(recipe_path(run).read_text("utf-8")) == {}
    check_plan(run, request)
    for other in (
        Request(tmp_path / "my photos", 20),
        Request(tmp_path / "others", 15),
        Request(tmp_path / "my photos", 15, overrides=("training.seed=1",)),
        Request(tmp_path / "my photos", 15, weights="resnet50.safetensors"),
    ):
        with pytest.raises(ValueError, match="Give the same arguments to continue"):
            check_plan(run, other)


def test_a_plan_that_exists_is_not_replaced(tmp_path: Path) -> None:
    """Two equal commands measure at the same time, and may choose other values."""
    run = tmp_path / "photos"
    write_plan(Plan("first = 1\n", ""), run)
    with pytest.raises(FileExistsError):
        write_plan(Plan("second = 2\n", ""), run)
    assert recipe_path(run).read_text() == "first = 1\n"
    assert not list(tmp_path.glob("*.partial*"))


def test_a_recipe_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    recipe_path(tmp_path / "photos").write_text("[model]\n")
    with pytest.raises(ValueError, match="did not write it"):
        check_plan(tmp_path / "photos", Request(tmp_path, 15))


RESNET50, RESNET18 = "torchvision/resnet50.IMAGENET1K_V2", "torchvision/resnet18.IMAGENET1K_V1"
CONTENT = b"weights"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of noise, 128 x 128 pixels."""
    generator = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("photos")
    for number in range(24):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (128, 128, 3), np.uint8)).save(path)
    return root


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, server: FileServer) -> list[Recipe]:
    """The recipes that were measured; the networks of published weights have a short file."""
    recipes: list[Recipe] = []

    def measure(recipe: Recipe, splits: Splits, seconds: float) -> Measurement:
        recipes.append(recipe)
        return Measurement(0.02, 5, 0.1, 100, 0.4)

    monkeypatch.setattr(plan, "measure", measure)
    monkeypatch.setattr(plan, "has_bfloat16", lambda: False)
    checksum = Checksum("sha256-prefix", hashlib.sha256(CONTENT).hexdigest()[:8])
    for name in (RESNET50, RESNET18):
        row = PRETRAINED[name]._replace(checksum=checksum)
        monkeypatch.setitem(PRETRAINED, name, row)
    return recipes


def store(name: str) -> None:
    path = cache_path(PRETRAINED[name])
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)


def publish(name: str, server: FileServer) -> None:
    server.answers[url_of(PRETRAINED[name]).removeprefix(server.url)] = Answer(CONTENT)


def planned(folder: Path, run: Path, *, download: bool = True, **request: Any) -> Recipe:
    write_plan(make_plan(Request(folder, **{"minutes": 15, **request}), download=download), run)
    return load_recipe(recipe_path(run))


def comment(run: Path) -> str:
    """Return the reason for the weights that the recipe states."""
    text = recipe_path(run).read_text("utf-8").partition("\nweights = ")[0]
    return " ".join(text.partition("\nname = ")[2].replace("\n# ", " ").split()[1:])


def test_a_recipe_names_the_weights_of_the_cache(
    folder: Path, measured: list[Recipe], server: FileServer, tmp_path: Path
) -> None:
    store(RESNET50)
    run = tmp_path / "run"
    recipe = planned(folder, run)
    assert (recipe.model.name, recipe.model.weights) == ("resnet50", RESNET50)
    assert recipe.data.mean == PRETRAINED[RESNET50].mean
    assert recipe.model.frozen_epochs == 2
    assert comment(run).startswith("Training starts from these weights. The time was ")
    check_initial_weights(recipe)
    assert not server.requests
    # The same command goes on with the recipe, even if the weights have vanished meanwhile.
    cache_path(PRETRAINED[RESNET50]).unlink()
    check_plan(run, Request(folder, 15))


def test_a_recipe_names_the_weights_that_were_downloaded(
    folder: Path, measured: list[Recipe], server: FileServer, tmp_path: Path
) -> None:
    publish(RESNET18, server)
    run = tmp_path / "run"
    recipe = planned(folder, run, overrides=("model.name=resnet18", "data.image_size=96"))
    assert (recipe.model.weights, recipe.data.image_size) == (RESNET18, 96)
    assert measured[0].model.weights == RESNET18
    assert cache_path(PRETRAINED[RESNET18]).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("arguments", "offline", "reason"),
    [
        ({}, "1", f"{RESNET50} cannot be downloaded from http://.*: KERAS_CNNS_OFFLINE disables"),
        ({}, "", f"{RESNET50} cannot be downloaded from http://.*: HTTP Error 404"),
        ({"weights": "none"}, "", "The option --weights none was given."),
        ({"minutes": 0.1}, "", "epochs of resnet18 with 96 x 96 pixels, and"),
        ({"overrides": ("data.image_size=64",)}, "", "do not fit data.image_size = 64"),
        ({"overrides": ("model.weights=",)}, "", "This value was given with --set."),
    ],
)
def test_a_recipe_says_why_the_training_starts_from_scratch(
    arguments: dict[str, Any],
    offline: str,
    reason: str,
    folder: Path,
    measured: list[Recipe],
    server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(OFFLINE, offline)
    run = tmp_path / "run"
    recipe = planned(folder, run, **arguments)
    assert recipe.model.weights == ""
    assert recipe.model.name in ("resnet18", "resnet34")
    assert re.search(reason, comment(run))
    is_automatic = not reason.startswith(("The option", "This value"))
    assert ("Training starts from scratch. " in capsys.readouterr().err) == is_automatic


def test_a_measured_network_that_is_too_slow_is_trained_from_scratch(
    folder: Path,
    measured: list[Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(recipe: Recipe, splits: Splits, seconds: float) -> Measurement:
        measured.append(recipe)
        return Measurement(80 if recipe.model.weights else 0.02, 5, 0.1, 100, 0.4)

    monkeypatch.setattr(plan, "measure", measure)
    store(RESNET18)
    run = tmp_path / "run"
    recipe = planned(folder, run)
    sizes = [(each.model.weights, each.data.image_size) for each in measured]
    assert sizes == [(RESNET18, 128), (RESNET18, 96), ("", 128)]
    assert recipe.model.weights == ""
    assert "there is time for 2 epochs of resnet18 with 96 x 96 pixels" in comment(run)


@pytest.mark.parametrize(
    ("minutes", "overrides", "compared"),
    [(15, (), True), (1, (), False), (15, ("training.precision=float32",), False)],
)
def test_the_precision_is_measured_if_the_cpu_has_bfloat16(
    minutes: float,
    overrides: tuple[str, ...],
    compared: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = {"float32": 0.05, "bfloat16": 0.02}
    measured: list[str] = []

    def measure(recipe: Recipe, splits: Splits, seconds: float) -> Measurement:
        precision = recipe.training.precision
        measured.append(precision)
        assert (seconds == 0) == (precision == "bfloat16")  # one learning-rate finder is enough
        return Measurement(steps[precision], 5, 0.1, 100, 0.4)

    monkeypatch.setattr(plan, "measure", measure)
    monkeypatch.setattr(plan, "has_bfloat16", lambda: True)
    run = tmp_path / "run"
    fixed = ("model.name=resnet18", "data.image_size=64")
    recipe = planned(folder, run, minutes=minutes, weights="none", overrides=(*fixed, *overrides))
    assert measured == (["float32", "bfloat16"] if compared else ["float32"])
    assert recipe.training.precision == measured[-1]
    step = "20 ms" if compared else "50 ms"
    assert f"{step} per step in {measured[-1]}" in capsys.readouterr().err
    assert f"5 steps of {step}" in recipe_path(run).read_text("utf-8")


@pytest.mark.parametrize("given", [("training.precision=float32",), ()])
def test_no_speed_of_bfloat16_is_assumed_where_it_is_not_used(
    given: tuple[str, ...], folder: Path, measured: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "has_bfloat16", lambda: True)
    budgets: list[Budget] = []
    choose_input = choosing.choose_input

    def spy(choices: Choices, photos: Photos, budget: Budget, **options: Any) -> None:
        budgets.append(budget)
        choose_input(choices, photos, budget, **options)

    monkeypatch.setattr(choosing, "choose_input", spy)
    fixed = ("model.name=resnet18", "data.image_size=64")
    for minutes in (2, 15):
        make_plan(Request(folder, minutes, weights="none", overrides=(*fixed, *given)))
    # With two minutes for everything, there is no time to measure bfloat16.
    assert [each.bfloat16 for each in budgets] == [False, not given]


def test_a_wide_network_that_is_too_slow_is_replaced_by_the_fastest(
    folder: Path, measured: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(recipe: Recipe, splits: Splits, seconds: float) -> Measurement:
        measured.append(recipe)
        return Measurement(60 if recipe.model.small_stem else 0.02, 5, 0.1, 100, 0.4)

    monkeypatch.setattr(plan, "measure", measure)
    run = tmp_path / "run"
    recipe = planned(folder, run, weights="none", overrides=("data.image_size=32",))
    assert [each.model.name for each in measured] == ["resnet18", "resnet20"]
    assert (recipe.model.name, recipe.model.small_stem) == ("resnet20", False)
    assert "A larger one was measured, and was too slow." in recipe_path(run).read_text("utf-8")


@pytest.mark.parametrize("weights", ["", RESNET50])
def test_a_dry_run_measures_random_weights_instead_of_downloading(
    weights: str, folder: Path, measured: list[Recipe], server: FileServer, tmp_path: Path
) -> None:
    publish(RESNET50, server)
    recipe = planned(folder, tmp_path / "run", download=False, weights=weights)
    assert recipe.model.weights == RESNET50
    assert [each.model.weights for each in measured] == [""]
    assert not server.requests
