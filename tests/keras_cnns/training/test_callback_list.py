"""Callbacks that a recipe asks for: averages, an early end, frozen stages; and soft targets."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from keras_cnns.recipes import format_recipe, load_recipe
from keras_cnns.training import Run, build_model, callback_list, evaluate, train
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


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["optimizer.schedule=constant", "optimizer.warmup_epochs=0"], 0),
        (["optimizer.schedule=step", "optimizer.decay_at_epochs=[4.0, 7.5]"], 8),
        (["optimizer.schedule=step", "optimizer.decay_at_steps=[30, 61]"], 7),
        (["optimizer.schedule=constant", "optimizer.warmup_epochs=1.5"], 2),
        (["optimizer.schedule=constant", "model.weights=x", "model.frozen_epochs=3"], 3),
        (
            [
                *("optimizer.schedule=constant", "model.weights=x", "model.frozen_epochs=3"),
                "model.unfreeze_epochs=2",
            ],
            7,  # one stage in epoch 3, the next one in epoch 5, and the last one in epoch 7
        ),
    ],
)
def test_early_stopping_counts_after_the_decays_the_warm_up_and_the_unfreezing(
    overrides: list[str], first: int
) -> None:
    recipe = load_recipe("digits-resnet20", [*overrides, "training.early_stopping_patience=5"])
    layers = [
        SimpleNamespace(name=name) for name in ("stem_conv", "stage1_x", "stage2_x", "logits")
    ]
    model = SimpleNamespace(layers=layers)
    prepared: Any = SimpleNamespace(recipe=recipe, training=SimpleNamespace(steps=10), model=model)
    callback = callback_list._early_stopping(prepared, "val_accuracy")
    assert callback is not None
    assert (callback.start_from_epoch, callback.patience) == (first, 5)
    assert callback.monitor == "val_accuracy"


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
