"""The recipe that a search writes."""

from pathlib import Path

import pytest

from keras_cnns.recipes import format_recipe, load_recipe
from keras_cnns.tune.best_recipe import format_best
from keras_cnns.tune.study import Trial

TRIAL = Trial(2, "completed", 0.9, 3, 1.0, {})


@pytest.mark.parametrize(
    "name", ["mine.toml", "two\nlines.toml", "\x1b[31mred.toml", "\udcff.toml", "a" * 200 + ".toml"]
)
def test_any_name_of_the_source_gives_a_recipe_that_can_be_read(tmp_path: Path, name: str) -> None:
    source, best = tmp_path / name, tmp_path / "best.toml"
    source.write_text('base = "digits-resnet20"\n[training]\nepochs = 3\n')
    recipe = load_recipe(source)
    best.write_text(format_best(str(source), recipe, "It is better.", TRIAL, is_best=True), "utf-8")
    assert load_recipe(best) == recipe
    assert "It is better." in " ".join(best.read_text("utf-8").replace("#", "").split())


def test_a_recipe_of_its_own_is_written_whole(tmp_path: Path) -> None:
    recipe = load_recipe("digits-resnet20")
    source = tmp_path / "whole.toml"
    text = format_best("digits-resnet20", recipe, "Result.", TRIAL, is_best=False)
    assert text.endswith('base = "digits-resnet20"\n')
    source.write_text(format_recipe(recipe))
    best = tmp_path / "best.toml"
    best.write_text(format_best(str(source), recipe, "Result.", TRIAL, is_best=False))
    assert "base" not in best.read_text()
    assert load_recipe(best) == recipe
