"""Searches: real trainings, interrupted and resumed, and searches with planted results."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from typer.testing import CliRunner

from keras_cnns.cli import app
from keras_cnns.commands.tune import Pruner
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.runs.lock import locked
from keras_cnns.runs.names import HISTORY, RESULTS
from keras_cnns.runs.run import RunError
from keras_cnns.training import Run, open_run
from keras_cnns.tune import study
from keras_cnns.tune.report import PAGE, write_report
from keras_cnns.tune.search import BEST, Outcome, Progress, Request, search
from keras_cnns.tune.space import apply_values, make_space
from tests.browser import check_that_everyone_can_read, chromium

SOURCE = "digits-resnet20"


class KilledError(Exception):
    """What ends a search in these tests."""


def kill_at(text: str) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        if progress.text.startswith(text):
            raise KilledError

    return show


def plant(run: Run, folder: Path, *, validation: float, test: float) -> None:
    """Copy a run, with other accuracies."""
    shutil.copytree(run.path, folder)
    rows = list(csv.DictReader((folder / HISTORY).read_text().splitlines()))
    with (folder / HISTORY).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"val_accuracy": str(validation)} for row in rows)
    results = json.loads((folder / RESULTS).read_text())
    results["test"]["accuracy"] = test
    (folder / RESULTS).write_text(json.dumps(results))


def make_request(folder: Path, recipe: Recipe, **others: object) -> Request:
    request = Request(SOURCE, recipe, make_space(recipe), folder, minutes=600, max_trials=2)
    return replace(request, **others)  # type: ignore[arg-type]


def planted_search(
    request: Request, run: Run, *, validation: tuple[float, float], test: tuple[float, float]
) -> Outcome:
    """Search with two trials and a comparison whose accuracies are planted; nothing is trained."""
    for number, accuracy in enumerate(validation, 1):
        with pytest.raises(KilledError):
            search(request, show=kill_at(f"trial {number}:"), log=lambda line: None)
        folder = request.folder / f"trial-{number:04d}"
        plant(run, folder, validation=accuracy, test=1 - accuracy)
    for number, accuracy in enumerate(test, 1):
        for seed in range(1, 1 + request.seeds):
            folder = request.folder / f"trial-{number:04d}-seed-{seed}"
            plant(run, folder, validation=0.5, test=accuracy + 0.001 * seed * number)
    return search(request, log=lambda line: None)


@pytest.fixture(scope="module")
def better(
    tmp_path_factory: pytest.TempPathFactory, finished_run: Run, quick_recipe: Recipe
) -> tuple[Request, Outcome]:
    request = make_request(tmp_path_factory.mktemp("tune") / "better", quick_recipe)
    outcome = planted_search(request, finished_run, validation=(0.5, 0.6), test=(0.8, 0.85))
    write_report(request, outcome)
    return request, outcome


def test_the_options_are_the_pruners() -> None:
    assert [each.value for each in Pruner] == list(study._PRUNERS)


def test_better_settings_are_written_with_their_interval(
    better: tuple[Request, Outcome], finished_run: Run
) -> None:
    request, outcome = better
    assert outcome.best.number == 2
    assert outcome.chosen is outcome.best
    assert outcome.comparison is not None
    decision = outcome.comparison.decide()
    assert decision.mean == pytest.approx(5.2)
    assert 5.0 < decision.low < 5.2
    assert "Trial 2 is at least 5.03 points better than the recipe" in outcome.describe()
    text = (request.folder / BEST).read_text()
    assert 'base = "digits-resnet20"' in text
    assert "at least 5.03 points better" in " ".join(text.replace("#", "").split())
    assert load_recipe(request.folder / BEST) == apply_values(request.recipe, outcome.best.values)


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        (
            (0.6, 0.6),
            (0.0, 1.0),
            "the other trial was not completed with a higher validation accuracy",
        ),
        ((0.5, 0.6), (0.8, 0.8 - 0.002), "the comparison with trial 2 is inconclusive"),
    ],
)
def test_nothing_was_better(
    tmp_path: Path,
    finished_run: Run,
    quick_recipe: Recipe,
    validation: tuple[float, float],
    test: tuple[float, float],
    message: str,
) -> None:
    request = make_request(tmp_path / "search", quick_recipe)
    outcome = planted_search(request, finished_run, validation=validation, test=test)
    assert outcome.chosen.number == 1
    assert message in outcome.describe()
    assert ("in trial-0002/config.toml" in outcome.describe()) == (outcome.best.number == 2)
    assert load_recipe(request.folder / BEST) == request.recipe
    # The same call again trains nothing, and more minutes or trials continue.
    assert search(request, log=lambda line: None).trials == outcome.trials
    with pytest.raises(KilledError):
        search(replace(request, max_trials=3), show=kill_at("trial 3:"), log=lambda line: None)


def test_without_seeds_the_best_settings_are_chosen_and_not_called_better(
    tmp_path: Path, finished_run: Run, quick_recipe: Recipe
) -> None:
    request = make_request(tmp_path / "search", quick_recipe, seeds=0)
    outcome = planted_search(request, finished_run, validation=(0.5, 0.6), test=(0.8, 0.9))
    assert outcome.chosen.number == 2
    assert "With --seeds 0 there was no comparison" in outcome.describe()
    text = (request.folder / BEST).read_text()
    assert "These are the settings of trial 2." in text
    assert load_recipe(request.folder / BEST) == apply_values(request.recipe, outcome.best.values)
    # More seeds than fit into the time: no comparison either, and then nothing is chosen.
    outcome = search(replace(request, seeds=100, minutes=0.01), log=lambda line: None)
    assert outcome.chosen.number == 1
    assert "There was no time for a comparison" in outcome.describe()
    assert "trial-0002/config.toml, beside best.toml" in outcome.describe()
    # With the minutes that it names there is one.
    minutes = float(re.findall(r"--minutes (\d+) compares them", outcome.describe())[0])
    with pytest.raises(KilledError):
        search(
            replace(request, seeds=100, minutes=minutes),
            show=kill_at("trial-0001-seed-1"),
            log=lambda line: None,
        )


def test_a_search_of_one_trial_compares_nothing(
    tmp_path: Path, finished_run: Run, quick_recipe: Recipe
) -> None:
    request = make_request(tmp_path / "search", quick_recipe, max_trials=1)
    with pytest.raises(KilledError):
        search(request, show=kill_at("trial 1:"), log=lambda line: None)
    plant(finished_run, request.folder / "trial-0001", validation=0.5, test=0.5)
    outcome = search(request, log=lambda line: None)
    assert "Only the recipe itself was trained" in outcome.describe()


@pytest.mark.soak
def test_a_real_trial_is_pruned_and_is_an_ordinary_run(
    tmp_path: Path, finished_run: Run, quick_recipe: Recipe, capfd: pytest.CaptureFixture[str]
) -> None:
    request = make_request(tmp_path / "search", quick_recipe, pruner="asha", seeds=0)
    lines: list[str] = []
    with pytest.raises(KilledError):
        search(request, show=kill_at("trial 1:"), log=lines.append)
    plant(finished_run, request.folder / "trial-0001", validation=0.999, test=0.0)
    with pytest.raises(KilledError):  # after the first epoch of its training
        search(request, show=kill_at("trial 2, epoch 1"), log=lines.append)
    outcome = search(request, log=lines.append)
    recipe, second = outcome.trials
    assert (recipe.state, recipe.accuracy) == ("completed", 0.999)
    assert (second.state, second.epochs) == ("pruned", 1)
    assert not capfd.readouterr().out
    run = open_run(request.folder / second.name)
    assert run.results()["ended_by"] == "callback"
    assert len(run.history()) == 1
    assert run.load_model().count_params() > 0
    assert run.recipe.optimizer.learning_rate != quick_recipe.optimizer.learning_rate
    assert "Nothing was better" in outcome.describe()
    assert any("pruned" in line for line in lines)
    assert any(line.startswith("One training takes about") for line in lines)


@pytest.mark.parametrize("text", ["model.name=resnet20,resnet999", "optimizer.name=momentum,sgdx"])
def test_a_name_that_does_not_exist_is_refused_before_the_search(text: str, tmp_path: Path) -> None:
    recipe = load_recipe(SOURCE)
    request = make_request(tmp_path / "tuned", recipe, space=make_space(recipe, [text]))
    with pytest.raises(ValueError, match=r"^--search .+=(resnet999|sgdx): "):
        search(request)
    assert not (tmp_path / "tuned").exists()


def test_a_run_in_which_a_process_trains_is_refused(finished_run: Run) -> None:
    with (
        locked(finished_run.path),
        pytest.raises(ValueError, match=rf"is in use: process {os.getpid()} on \S+ trains in it"),
    ):
        search(make_request(finished_run.path, finished_run.recipe))


def test_another_search_in_the_directory_is_refused(
    better: tuple[Request, Outcome], tmp_path: Path, quick_recipe: Recipe
) -> None:
    request, _ = better
    other = replace(request.recipe, training=replace(request.recipe.training, epochs=3))
    for changed, message in [
        (replace(request, recipe=other), "another recipe: epochs = 2 there and epochs = 3 here"),
        (
            replace(request, space=make_space(other, ["training.batch_size=8,16"])),
            "another search: training.batch_size is 16, 32, 64 there and 8, 16 here",
        ),
        (replace(request, pruner="asha"), "another pruner"),
    ]:
        with pytest.raises(ValueError, match=message):
            search(changed)
    environment = request.folder / "trial-0001" / "environment.json"
    recorded = environment.read_text("utf-8")
    environment.write_text(json.dumps(json.loads(recorded) | {"data_fingerprint": "x"}))
    with pytest.raises(RunError, match="trial-0001 was begun with other data"):
        search(request, log=lambda line: None)
    environment.write_text(recorded)
    (tmp_path / "tune.partial.json").touch()  # of a process that was killed at its first write
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is not the directory of a search"):
        search(make_request(tmp_path, quick_recipe))
    with pytest.raises(ValueError, match="is a file"):
        search(make_request(tmp_path / "file", quick_recipe))
    (tmp_path / "file").unlink()
    state = json.loads((request.folder / "tune.json").read_text())
    for damaged in ("{", "[]", json.dumps(state | {"spent": math.nan}), '{"spent": 1}'):
        (tmp_path / "tune.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"tune\.json is damaged"):
            search(make_request(tmp_path, quick_recipe))


def test_a_missing_optuna_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("study", "search", "report", "best_recipe"):
        monkeypatch.delitem(sys.modules, f"keras_cnns.tune.{name}", raising=False)
    result = CliRunner().invoke(app, ["tune", SOURCE, "--run", str(tmp_path / "search")])
    assert "pip install 'keras-cnns[tune]'" in str(result.exception)
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-resnet2"], "did you mean 'digits-resnet20'"),
        ([SOURCE, "--search", "optimizer.learning_rat=1:2"], "did you mean"),
        ([SOURCE, "--minutes", "nan"], "--minutes"),
        ([SOURCE, "--minutes", "inf"], "--minutes is inf; it must be a finite number"),
        ([SOURCE, "--seeds", "1"], "an interval needs at least 2 seeds"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["tune", *arguments, "--run", str(tmp_path / "search")])
    assert result.exit_code != 0
    text = " ".join(f"{result.output} {result.exception}".replace("│", " ").split())
    assert message in text
    assert not (tmp_path / "search").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_the_page_has_the_charts_and_the_command(better: tuple[Request, Outcome]) -> None:
    request, _ = better
    text = (request.folder / PAGE).read_text()
    for part in (
        "Trial 2 is at least 5.03 points better",
        f"keras-cnns train --recipe {request.folder / BEST} --run {request.folder}-best",
        "Test accuracy of each seed",
        "Validation accuracy of each trial",
        "Settings and accuracy of each trial",
        "fewer than four completed trials",
    ):
        assert part in text


@pytest.mark.soak
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_everyone_can_read_the_page(
    browser: Browser, better: tuple[Request, Outcome], width: int, scheme: str
) -> None:
    text = check_that_everyone_can_read(browser, better[0].folder / PAGE, width, scheme)
    assert "Trial 2 is at least" in text


@pytest.mark.soak
def test_a_killed_command_continues(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "keras_cnns.cli", "tune", SOURCE, "--minutes", "20"),
        *("--trials", "3", "--seeds", "2", "--run", str(tmp_path / "search")),
        *("--set", "data.train_split=train[:96]", "--set", "training.epochs=3"),
    ]
    process = subprocess.Popen(command)
    while not (tmp_path / "search" / "trial-0002" / HISTORY).exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resuming after 1 trial and" in again.stdout
    assert "better" in again.stdout
    assert load_recipe(tmp_path / "search" / BEST)
    assert (tmp_path / "search" / PAGE).exists()
