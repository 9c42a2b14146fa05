"""The journal: what a killed search left, what is pruned, and what a damaged file says."""

import json
import math
import resource
from pathlib import Path
from typing import Any

import pytest

from keras_cnns.recipes import load_recipe
from keras_cnns.tune.space import Values, make_space, recipe_values
from keras_cnns.tune.study import JOURNAL, Study

RECIPE = load_recipe("digits-resnet20")
SPACE = make_space(RECIPE)
OWN = recipe_values(RECIPE, SPACE)
EPOCHS = 3
LATE_PRUNERS = ("asha", "hyperband")  # they need more trials
CREATE_TRIAL = 4  # the operation's code in Optuna's journal


def open_study(folder: Path, pruner: str = "none") -> Study:
    return Study(folder, SPACE, OWN, EPOCHS, pruner)


def run_trial(study: Study, accuracy: float) -> tuple[Values, int]:
    """Report one accuracy in each epoch; return the values and the number of epochs."""
    trial, values = study.next_trial()
    for epoch in range(1, EPOCHS + 1):
        if study.report(trial, epoch, accuracy):
            study.finish(trial, "pruned", accuracy, 1.0)
            return values, epoch
    study.finish(trial, "completed", accuracy, 1.0)
    return values, EPOCHS


def test_the_first_trial_is_the_recipe_and_others_lie_in_the_space(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    assert run_trial(study, 0.5) == (OWN, EPOCHS)
    for index in range(4):
        values, _ = run_trial(study, 0.1 * index)
        assert all(SPACE[key].contains(value) for key, value in values.items())
    trials = study.trials()
    assert [each.number for each in trials] == list(range(1, 6))
    assert trials[0].name == "trial-0001"
    assert sum(study.importances().values()) == pytest.approx(1)


def test_a_recipe_outside_of_the_space_is_the_first_trial_too(tmp_path: Path) -> None:
    space = make_space(RECIPE, ["optimizer.learning_rate=1:2"])
    study = Study(tmp_path, space, OWN, EPOCHS, "none")
    assert run_trial(study, 0.5)[0] == OWN
    assert run_trial(study, 0.5)[0]["optimizer.learning_rate"] != OWN["optimizer.learning_rate"]
    assert study.importances() == {}


def finish_search(study: Study, trials: int, epochs: int) -> list[tuple[int, str, int, Values]]:
    """Run trials up to the given number; return the number, state, epochs and values of each."""
    while len(study.trials()) < trials:
        # A training that goes on repeats at most the epoch that was reported last.
        reported = len(study._interrupted.intermediate_values) if study._interrupted else 0
        trial, _ = study.next_trial()
        for epoch in range(max(1, reported), epochs + 1):
            accuracy = (7 * trial.number + 3 * epoch) % 11 / 11
            if study.report(trial, epoch, accuracy):
                study.finish(trial, "pruned", accuracy, 1.0)
                break
        else:
            study.finish(trial, "completed", accuracy, 1.0)
    return [(each.number, each.state, each.epochs, each.values) for each in study.trials()]


@pytest.mark.parametrize(
    ("pruner", "trials", "epochs"),
    [
        ("asha", 3, 2),
        pytest.param("asha", 6, 9, marks=pytest.mark.soak),
        pytest.param("hyperband", 6, 9, marks=pytest.mark.soak),
    ],
)
def test_a_search_that_is_killed_at_any_line_of_the_journal_has_the_same_result(
    tmp_path: Path, pruner: str, trials: int, epochs: int
) -> None:
    def finish(folder: Path) -> tuple[Any, list[Any]]:
        study = Study(folder, SPACE, OWN, epochs, pruner)
        ended = finish_search(study, trials, epochs)
        rungs = [  # what the pruner remembers
            {key: value for key, value in each.system_attrs.items() if "rung" in key}
            for each in study._study.get_trials()
        ]
        return ended, rungs

    expected = finish(tmp_path)
    assert {state for _, state, *_ in expected[0]} == {"completed", "pruned"}
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    begins = [n for n, line in enumerate(lines) if json.loads(line)["op_code"] == CREATE_TRIAL]
    for number in range(begins[trials // 2], len(lines)):
        # In the middle of a line, and with the journal's lock.
        torn = lines[number][: len(lines[number]) // 2]
        (tmp_path / JOURNAL).write_bytes(b"".join([*lines[:number], torn]))
        (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
        ended, rungs = finish(tmp_path)
        assert ended == expected[0], number
        assert rungs == expected[1], number


def test_successive_halving_compares_with_the_recipe(tmp_path: Path) -> None:
    study = open_study(tmp_path, "asha")
    assert run_trial(study, 0.9)[1] == EPOCHS
    assert run_trial(study, 0.1)[1] == 1


def test_a_repeated_epoch_has_the_same_answer(tmp_path: Path) -> None:
    study = open_study(tmp_path, "asha")
    run_trial(study, 0.9)
    trial, _ = study.next_trial()
    assert [study.report(trial, 1, 0.1) for _ in range(3)] == [True] * 3


@pytest.mark.parametrize(
    "pruner",
    ["median", "none", *(pytest.param(each, marks=pytest.mark.soak) for each in LATE_PRUNERS)],
)
def test_bad_trials_are_pruned_and_the_recipe_never(tmp_path: Path, pruner: str) -> None:
    study = open_study(tmp_path, pruner)
    assert run_trial(study, 0.1)[1] == EPOCHS
    for accuracy in (0.8, 0.85, 0.9, 0.95):
        run_trial(study, accuracy)
    epochs = [run_trial(study, 0.2)[1] for _ in range(6 if pruner in LATE_PRUNERS else 1)]
    assert (min(epochs) < EPOCHS) == (pruner != "none")
    states = {each.state for each in study.trials()}
    assert ("pruned" in states) == (pruner != "none")
    if pruner == "median":
        assert min(epochs) >= EPOCHS // 3


def test_a_diverged_trial_has_no_accuracy(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    run_trial(study, 0.5)
    trial, _ = study.next_trial()
    study.finish(trial, "diverged", math.nan, 1.0)
    (_, diverged) = study.trials()
    assert diverged.state == "diverged"
    assert math.isnan(diverged.accuracy)


@pytest.mark.parametrize("content", [b"no json\n", b'{"op_code": 99}\n', b"[]\n", b"\xff\xfe\n"])
def test_a_damaged_journal_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    with pytest.raises(ValueError, match=r"journal\.log.* damaged.*choose another directory"):
        open_study(tmp_path)


def test_an_error_of_the_disk_names_the_journal(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / JOURNAL).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*journal\.log"):
            study.next_trial()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_unknown_pruner_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pruner 'medain'; did you mean 'median'"):
        open_study(tmp_path, "medain")
