"""A training that is killed continues bit for bit."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import survivor

from keras_cnns.optimizers import Momentum
from keras_cnns.training.callbacks import Resume
from keras_cnns.training.checkpoint import CheckpointError, list_checkpoints, read_checkpoint

# How often it is killed at random moments, in addition to twice in the middle of writing.
KILLS = (5, pytest.param(18, marks=pytest.mark.soak))
SIGTERM_STATUS = 143


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return every number of a state, by its path in the state."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list | tuple):
        children = list(enumerate(value))
    else:
        return {path: value.tobytes() if isinstance(value, np.ndarray) else value}
    return {k: v for name, child in children for k, v in leaves(child, f"{path}/{name}").items()}


@pytest.mark.parametrize("kills", KILLS)
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path: Path, kills: int) -> None:
    chance = random.Random(0)
    plans: list[dict[str, Any]] = [
        {"after": chance.randint(1, 8), "milliseconds": chance.uniform(0, 20)} for _ in range(kills)
    ]
    for number, plan in enumerate(
        (
            {"writing": "half", "nth": 2},
            {"writing": "whole", "nth": 2},
            {"terminate": "training", "nth": 3},
            {"terminate": "evaluation", "nth": 1},
        ),
        start=1,
    ):
        plans.insert(number * len(plans) // 5, plan)
    killed = [{"directory": str(tmp_path / "killed"), **plan} for plan in [*plans, {}]]
    (tmp_path / "plans.json").write_text(
        json.dumps([{"directory": str(tmp_path / "unbroken")}, *killed])
    )
    process = subprocess.run(
        [sys.executable, survivor.__file__, str(tmp_path / "plans.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [SIGTERM_STATUS if "terminate" in plan else -9 for plan in plans]
    assert json.loads(process.stdout) == [0, *expected, 0], process.stderr
    assert "SIGTERM: the checkpoint of step" in process.stderr

    ends = [leaves(read_checkpoint(tmp_path / name / "end")) for name in ("unbroken", "killed")]
    differences = [
        name for name in {**ends[0], **ends[1]} if ends[0].get(name) != ends[1].get(name)
    ]
    assert not differences
    for kind in ("variables/norm", "optimizer/average", "callbacks/2/state", "generators/python"):
        assert any(name.startswith(f"/{kind}") for name in ends[0])  # they were compared
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("unbroken", "killed")]
    assert histories[0] == histories[1]
    assert len(histories[0].splitlines()) == 1 + survivor.EPOCHS
    models = [keras.saving.load_model(tmp_path / n / "model.keras") for n in ("unbroken", "killed")]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    checkpoints = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert checkpoints == ["step-00000100.checkpoint", "step-00000104.checkpoint"]


Fit = Callable[..., tuple[Resume, list[np.ndarray[Any, Any]]]]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Train for some epochs with a checkpoint each 4 steps; return the weights too."""
    batches, _ = survivor.make_batches()

    def fit(
        *callbacks: keras.callbacks.Callback, epochs: int = 1, **options: Any
    ) -> tuple[Resume, list[np.ndarray[Any, Any]]]:
        keras.utils.set_random_seed(1)
        model = survivor.make_model()
        resume = Resume(
            tmp_path / "checkpoints",
            batches,
            steps_per_epoch=survivor.STEPS,
            callbacks=callbacks,
            **{"steps": 4, **options},
        )
        model.fit(
            batches(resume.step),
            steps_per_epoch=survivor.STEPS,
            initial_epoch=resume.epoch,
            epochs=epochs,
            callbacks=[*callbacks, resume],
            shuffle=False,
            verbose=0,
        )
        return resume, model.get_weights()

    return fit


def test_of_the_checkpoints_two_are_kept(fit: Fit) -> None:
    resume, _ = fit()
    names = [path.name for path in list_checkpoints(resume.directory)]
    assert names == ["step-00000008.checkpoint", "step-00000004.checkpoint"]
    assert len(list(resume.directory.iterdir())) == 2


def test_a_damaged_checkpoint_is_passed_over(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    resume, expected = fit()
    newest, older = list_checkpoints(resume.directory)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    resume, weights = fit()
    message = capsys.readouterr().err
    assert f"{newest} is damaged: its checksum does not match its content" in message
    assert f"resuming from the older checkpoint {older}" in message
    assert resume.resumed_at == 4
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert read_checkpoint(newest)["step"] == 8  # whole again

    for path in (newest, older):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact: remove all of them"):
        fit()


def test_a_full_disk_does_not_end_the_training(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "checkpoints"

    def fill(batch: int, logs: Any) -> None:
        if batch == 2:  # the next checkpoint is written to a full disk
            (directory / "step-00000004.partial.checkpoint").symlink_to("/dev/full")

    _, expected = fit(epochs=2, steps=None)
    shutil.rmtree(directory)
    _, weights = fit(keras.callbacks.LambdaCallback(on_train_batch_end=fill), epochs=2)
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    message = capsys.readouterr().err
    assert "step-00000004.checkpoint: No space left on device; the latest chec" in message
    assert "the latest checkpoint is that of step 0. Training continues" in message
    names = [path.name for path in list_checkpoints(directory)]
    assert names == ["step-00000016.checkpoint", "step-00000012.checkpoint"]


def test_another_model_is_refused_by_name(fit: Fit, tmp_path: Path) -> None:
    fit()
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(name="flat")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    batches, _ = survivor.make_batches()
    resume = Resume(tmp_path / "checkpoints", batches, steps_per_epoch=9)
    with pytest.raises(CheckpointError, match="another model: weight conv/kernel"):
        model.fit(batches(0), steps_per_epoch=9, callbacks=[resume], shuffle=False, verbose=0)


def test_other_callbacks_are_refused_by_name(fit: Fit) -> None:
    fit(keras.callbacks.TerminateOnNaN())
    with pytest.raises(CheckpointError, match="TerminateOnNaN, History; this training has H"):
        fit()


def test_what_is_not_finite_is_not_saved(fit: Fit) -> None:
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            if batch == 5:
                self.model.get_layer("logits").bias.assign([0.0, np.nan, 0.0])

    resume, _ = fit(Spoil())
    assert [path.name for path in list_checkpoints(resume.directory)] == [
        "step-00000004.checkpoint",
        "step-00000000.checkpoint",
    ]


def test_a_short_training_has_only_the_first_checkpoint(fit: Fit) -> None:
    resume, _ = fit(epochs=2, steps=None)
    assert [path.name for path in list_checkpoints(resume.directory)] == [
        "step-00000000.checkpoint"
    ]


def test_a_resumed_epoch_ends_where_it_would_have(fit: Fit) -> None:
    calls: list[str] = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: calls.append(f"begin {epoch}"),
        on_train_batch_end=lambda batch, logs: calls.append("step"),
        on_epoch_end=lambda epoch, logs: calls.append(f"end {epoch}"),
    )
    fit(note)
    calls.clear()
    fit(note, epochs=2)
    assert calls == ["begin 0", "step", "end 0", "begin 1", *["step"] * survivor.STEPS, "end 1"]


def test_settings_are_those_of_the_new_callback(fit: Fit, tmp_path: Path) -> None:
    """Its state, such as the epochs waited, is that of the checkpoint."""

    class Count(keras.callbacks.Callback):
        def __init__(self, limit: int, steps: int = 0) -> None:
            super().__init__()
            self.limit, self.steps = limit, steps

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            self.steps += 1

    log = tmp_path / "log.csv"

    def callbacks(patience: int) -> list[Any]:
        early = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=patience, baseline=0)
        reduce = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=patience)
        return [early, reduce, Count(patience), keras.callbacks.CSVLogger(log, append=True)]

    former, new = callbacks(10), callbacks(20)
    fit(*former, epochs=3)
    resume, _ = fit(*new, epochs=4)
    early, reduce, count, _ = new
    assert resume.resumed_at == 24
    assert (early.patience, early.baseline, early.wait) == (20, 0, 4)
    assert (reduce.patience, reduce.factor) == (20, 0.5)
    assert (count.limit, count.steps) == (20, 36)
    assert log.read_text().count("epoch") == 1  # one header
    assert early.best is not None
    fit(*new, epochs=5)  # the same objects again, as in a notebook cell
    again = callbacks(20)
    fit(*again, epochs=6)
    assert (again[0].best, again[0].wait, again[2].steps) == (early.best, 6, 54)


@pytest.mark.parametrize("optimizer", [Momentum, keras.optimizers.Adam])
def test_a_model_that_was_built_again_resumes(tmp_path: Path, optimizer: Any) -> None:
    """As in a loop over folds, or a notebook cell: Keras gives the new model other names."""
    batches, _ = survivor.make_batches()

    def train(epochs: int, directory: str) -> list[np.ndarray[Any, Any]]:
        layers = [keras.layers.Flatten(), *(keras.layers.Dense(3) for _ in range(11))]
        model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        for number, layer in enumerate(layers[1:]):
            kernel, bias = layer.get_weights()
            layer.set_weights([np.eye(*kernel.shape) + 0.01 * number, bias])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(1e-3), loss)
        resume = Resume(tmp_path / directory, batches, steps_per_epoch=survivor.STEPS, steps=4)
        model.fit(
            batches(resume.step),
            steps_per_epoch=survivor.STEPS,
            initial_epoch=resume.epoch,
            epochs=epochs,
            callbacks=[resume],
            shuffle=False,
            verbose=0,
        )
        return list(model.get_weights())

    unbroken = train(2, "unbroken")
    train(1, "resumed")
    for one, other in zip(train(2, "resumed"), unbroken, strict=True):
        np.testing.assert_array_equal(one, other)


def test_several_steps_per_execution_are_saved_on_time(tmp_path: Path) -> None:
    batches, validation = survivor.make_batches()
    saved: list[int] = []

    class Save(Resume):
        def save(self) -> None:
            saved.append(self.step)
            super().save()

    model = survivor.make_model()
    model.steps_per_execution = 7
    resume = Save(tmp_path, batches, steps_per_epoch=35, steps=10, seconds=None)
    at_evaluation: list[int] = []

    class Note(keras.callbacks.Callback):
        def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
            assert resume.snapshot
            at_evaluation.append(resume.snapshot.step)

    model.fit(
        batches(0),
        steps_per_epoch=35,
        epochs=3,
        validation_data=validation,
        callbacks=[resume, Note()],
        shuffle=False,
        verbose=0,
    )
    assert saved == [0, 14, 21, 35, 42, 56, 63, 70, 84, 91]
    assert at_evaluation == [28, 63, 98]  # before the last execution of each epoch


def test_epochs_of_parts_of_executions_are_refused(tmp_path: Path) -> None:
    batches, _ = survivor.make_batches()
    model = survivor.make_model()
    model.steps_per_execution = 7
    resume = Resume(tmp_path, batches, steps_per_epoch=10)
    with pytest.raises(ValueError, match="of the model's steps_per_execution, which is 7"):
        model.fit(batches(0), steps_per_epoch=10, callbacks=[resume], shuffle=False, verbose=0)
