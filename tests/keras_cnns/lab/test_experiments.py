from dataclasses import replace
from pathlib import Path

import pytest

from keras_cnns.commands.lab import Claim
from keras_cnns.lab import EXPERIMENTS, experiments, run_experiment
from keras_cnns.recipes import load_recipe

TINY = (
    "data.train_split=train[:64]",
    "data.validation_split=validation[:32]",
    "data.test_split=test[:32]",
    "training.epochs=1",
)


def test_the_command_knows_every_experiment() -> None:
    assert [claim.value for claim in Claim] == list(EXPERIMENTS)


@pytest.mark.parametrize("name", [name for name, each in EXPERIMENTS.items() if each])
def test_its_recipes_are_valid_and_differ(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment
    recipes = [
        load_recipe("digits-resnet20", (*experiment.common, *overrides))
        for overrides in experiment.variants.values()
    ]
    assert recipes[0] != recipes[1]
    assert recipes[0].data == recipes[1].data
    assert recipes[0].optimizer == recipes[1].optimizer


def test_an_experiment_is_trained_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = EXPERIMENTS["depth"]
    assert depth
    variants: dict[str, tuple[str, ...]] = {
        "plain": ("model.name=plain20",),
        "residual": ("model.name=resnet20",),
    }
    tiny = replace(depth, common=(*depth.common, *TINY), variants=variants)
    monkeypatch.setitem(experiments.EXPERIMENTS, "depth", tiny)
    logged: list[str] = []
    path = run_experiment("depth", tmp_path, logged.append)
    assert logged == ["depth: plain", "depth: residual"]
    html = path.read_text()
    assert depth.claim in html
    assert 'alt="plain: gradient norm: ' in html
    assert 'alt="residual: standard deviation of activations: ' in html
    assert (tmp_path / "depth" / "plain" / "report.html").is_file()
