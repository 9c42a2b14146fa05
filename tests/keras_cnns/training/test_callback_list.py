"""Callbacks that a recipe asks for: averages, an early end, frozen stages; and soft targets."""

from pathlib import Path

import numpy as np
import pytest

from keras_cnns.recipes import format_recipe, load_recipe
from keras_cnns.training import Run, build_model, evaluate, train
from keras_cnns.training.callbacks.unfreeze import find_stages


def test_soft_targets_averages_a_constant_warmup_and_an_early_end(
    finished_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(format_recipe(finished_run.recipe))
    recipe = load_recipe(
        tmp_path / "recipe.toml",
        [
            "augmentation.mixup_alpha=0.2",
            "augmentation.cutmix_alpha=1.0",
            "augmentation.label_smoothing=0.1",
            "optimizer.ema_momentum=0.5",
            "optimizer.schedule=constant",
            "optimizer.warmup_epochs=0.0",
            "optimizer.constant_warmup_steps=6",
            "optimizer.constant_warmup_learning_rate=0.001",
            "training.max_steps=5",
        ],
    )
    run = train(recipe, tmp_path / "run")
    model = run.load_model()
    assert int(model.optimizer.iterations) in (3, 5)  # that of the best epoch
    assert [row["epoch"] for row in run.history()] == [0, 1]
    assert [row["learning_rate"] for row in run.history()] == pytest.approx([0.001, 0.001])
    # The loss of a split is that of its true labels, not of smoothed ones.
    assert run.results()["test"] == evaluate(run)


def test_fine_tuning_begins_from_weights_with_the_stages_frozen(
    finished_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(format_recipe(finished_run.recipe))
    recipe = load_recipe(
        tmp_path / "recipe.toml",
        [f"model.weights={finished_run.path / 'model.keras'}", "model.frozen_epochs=1"],
    )
    before = finished_run.load_model()
    other_classes = build_model(recipe, classes=3)
    assert other_classes.output.shape == (None, 3)
    for stage, layers in find_stages(before).items():
        for layer in layers:
            values = other_classes.get_layer(layer.name).get_weights()
            for one, other in zip(layer.get_weights(), values, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=stage)
