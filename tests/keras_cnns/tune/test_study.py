"""The journal: what a killed search left, what is pruned, and what a damaged file says."""

import math
from pathlib import Path

import pytest

from keras_cnns.recipes import load_recipe
from keras_cnns.tune.space import Values, make_space, recipe_values
from keras_cnns.tune.study import JOURNAL, Study

RECIPE = load_recipe("digits-resnet20")
SPACE = make_space(RECIPE)
OWN = recipe_values(RECIPE, SPACE)
EPOCHS = 9


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
    for _ in range(7):
        values, _ = run_trial(study, 0.4)
        assert all(SPACE[key].contains(value) for key, value in values.items())
    trials = study.trials()
    assert [each.number for each in trials] == list(range(1, 9))
    assert trials[0].name == "trial-0001"
    assert sum(study.importances().values()) == pytest.approx(1)


def test_a_recipe_outside_of_the_space_is_the_first_trial_too(tmp_path: Path) -> None:
    space = make_space(RECIPE, ["optimizer.learning_rate=1:2"])
    study = Study(tmp_path, space, OWN, EPOCHS, "none")
    assert run_trial(study, 0.5)[0] == OWN
    assert run_trial(study, 0.5)[0]["optimizer.learning_rate"] != OWN["optimizer.learning_rate"]
    assert study.importances() == {}


def test_a_killed_search_continues_with_the_same_values(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    study = open_study(whole)
    expected = [run_trial(study, 0.1 * index)[0] for index in range(8)]
    found = []
    for index in range(8):
        study = open_study(killed)
        trial, values = study.next_trial()
        study.report(trial, 1, 0.1 * index)
        # The process is killed here, in the middle of a line, and with the journal's lock.
        with (killed / JOURNAL).open("ab") as journal:
            journal.write(b'{"op_code": 8, "wor')
        (killed / f"{JOURNAL}.lock").symlink_to(killed / JOURNAL)
        study = open_study(killed)
        again, values_again = study.next_trial()
        assert (again.number, values_again) == (trial.number, values)
        for epoch in range(1, EPOCHS + 1):  # the first epoch is repeated, and counts once
            study.report(again, epoch, 0.1 * index)
        study.finish(again, "completed", 0.1 * index, 1.0)
        found.append(values)
    assert found == expected
    assert [each.epochs for each in study.trials()] == [EPOCHS] * 8


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband", "none"])
def test_bad_trials_are_pruned_and_the_recipe_never(tmp_path: Path, pruner: str) -> None:
    study = open_study(tmp_path, pruner)
    assert run_trial(study, 0.1)[1] == EPOCHS
    for accuracy in (0.8, 0.85, 0.9, 0.95):
        run_trial(study, accuracy)
    epochs = [run_trial(study, 0.2)[1] for _ in range(6)]
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


def test_an_unknown_pruner_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pruner 'medain'; did you mean 'median'"):
        open_study(tmp_path, "medain")
