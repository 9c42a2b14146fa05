"""Class weights, focal loss, auxiliary heads, smoothing, mixing and early stopping, resumed."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny_model

from keras_cnns import load_model
from keras_cnns.losses import FocalCrossentropy
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.report import run_report
from keras_cnns.report.records import read_records
from keras_cnns.training import Run, train
from keras_cnns.training.model import compile_model

RECIPE = (
    "model.aux_heads=true",
    "data.train_split=train[:48]",
    "data.validation_split=validation[:8]",  # the accuracy has few values, and soon does not rise
    "data.test_split=test[:32]",
    "augmentation.label_smoothing=0.1",
    "augmentation.mixup_alpha=0.2",
    "class_balance.focal_gamma=2.0",
    "optimizer.schedule=constant",
    "training.early_stopping_patience=2",
    "training.epochs=60",
    "training.batch_size=16",
)
STEPS = 3  # of an epoch


class Interrupt(keras.callbacks.Callback):
    """Raise an error after a step, like a process that is killed."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self.plan, self.step = (step,), 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step += 1
        if self.step == self.plan[0]:
            raise KeyboardInterrupt


def fit(recipe: Recipe, run: Path, stop_at: int | None = None) -> Run:
    return train(recipe, run, checkpoint_steps=1, callbacks=[Interrupt(stop_at)])


@pytest.mark.parametrize(
    "balance",
    [
        "class_balance.weights=effective_number",
        pytest.param("class_balance.balanced_sampling=true", marks=pytest.mark.soak),
    ],
)
def test_killed_while_it_waits_to_stop_early_it_ends_as_if_never_killed(
    balance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    tiny_model.register(monkeypatch)
    recipe = load_recipe("digits-resnet20", [*RECIPE, balance])
    unbroken = fit(recipe, tmp_path / "unbroken")
    results = unbroken.results()
    last, best = results["last_epoch"], results["best_epoch"]
    assert results["ended_by"] == "early_stopping"
    assert 2 < last < 60
    accuracies = [row["val_main_accuracy"] for row in unbroken.history()]
    assert len(accuracies) == last
    assert max(accuracies[-2:]) <= max(accuracies[:-2])  # it has not risen for two epochs
    assert accuracies[best - 1] == max(accuracies)
    message = (
        f"Early stopping ended the training after epoch {last} of at most 60: the validation "
        f"accuracy had not risen for 2 epochs. The model of epoch {best} is kept"
    )
    assert message in capsys.readouterr().err
    assert message in run_report._describe_ending(read_records(unbroken.path))

    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tmp_path / "killed", stop_at=(last - 1) * STEPS + 2)
    resumed = fit(recipe, tmp_path / "killed")
    assert f"resuming at step {(last - 1) * STEPS}" in capsys.readouterr().err
    assert resumed.history() == unbroken.history()
    ended = ("best_epoch", "last_epoch", "ended_by", "test", "test_classes")
    assert {key: resumed.results()[key] for key in ended} == {key: results[key] for key in ended}
    models = [load_model(run.path / "model.keras") for run in (resumed, unbroken)]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    assert models[0].loss["main"].gamma == 2.0


def test_every_head_has_the_loss_and_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model.build_tiny(aux_heads=True)
    recipe = load_recipe("digits-googlenet", ["class_balance.weights=inverse"])
    compile_model(model, recipe, steps_per_epoch=10)
    assert {name: type(loss) for name, loss in model.loss.items()} == {
        "main": FocalCrossentropy,
        "aux1": FocalCrossentropy,
    }
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1)).astype("float32")
    targets = np.eye(10, dtype="float32")[[3, 1, 4, 1]]
    weighted = targets * np.array([[1], [2], [0], [3]], "float32")

    def evaluate(rows: list[int], targets: np.ndarray) -> dict[str, float]:
        logs: dict[str, float] = model.evaluate(
            images[rows],
            {"main": targets[rows], "aux1": targets[rows]},
            verbose=0,
            return_dict=True,
        )
        return logs

    found = evaluate([0, 1, 2, 3], weighted)
    for loss in ("main_loss", "aux1_loss"):
        single = [evaluate([row], targets)[loss] for row in range(4)]
        assert found[loss] == pytest.approx(np.average(single, weights=[1, 2, 0, 3]), rel=1e-4)
    assert found["loss"] == pytest.approx(found["main_loss"] + 0.3 * found["aux1_loss"], rel=1e-5)
