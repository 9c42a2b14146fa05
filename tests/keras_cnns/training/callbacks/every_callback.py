"""Every public callback and schedule in a small training, on the backend of this process.

    KERAS_BACKEND=jax python every_callback.py DIRECTORY

The results, which must be equal on every backend, are printed as JSON: name -> list of numbers.
`TensorBoard` is the exception: it needs TensorFlow's summary writer.
"""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_cnns.optimizers import ConstantWarmUp, Momentum, OneCycle, WarmUp
from keras_cnns.recipes import load_recipe
from keras_cnns.runs.tables import read_times
from keras_cnns.training import callbacks
from keras_cnns.training.callbacks.stop_on_divergence import DivergedError
from keras_cnns.training.schedules import SCHEDULES, make_schedule

EXCEPTIONS = {"TensorBoard"}
STEPS, EPOCHS, BATCH = 5, 3, 8
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(STEPS * BATCH, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
Result = list[float]


def make_model(**optimizer: Any) -> keras.Model:
    inputs = x = keras.Input((4,))
    for name in ("stem", "stage1", "stage2"):
        x = keras.layers.Dense(6, name=f"{name}_dense")(x)
        x = keras.layers.BatchNormalization(momentum=0.5, name=f"{name}_bn")(x)
        x = keras.layers.Activation("relu", name=f"{name}_relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="logits")(x))
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([generator.normal(size=w.shape) for w in layer.get_weights()])
    model.compile(
        Momentum(**{"learning_rate": 0.05, "weight_decay": 1e-3, **optimizer}),
        "sparse_categorical_crossentropy",
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )
    return model


def batches(step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number in range(step, STEPS * EPOCHS):
        rows = slice(number % STEPS * BATCH, (number % STEPS + 1) * BATCH)
        yield X[rows], Y[rows]


def fit(model: keras.Model, *given: Any, resume: Any = None, epochs: int = EPOCHS) -> Any:
    return model.fit(
        batches(resume.step if resume else 0),
        steps_per_epoch=STEPS,
        initial_epoch=resume.epoch if resume else 0,
        epochs=epochs,
        validation_data=(X[:BATCH], Y[:BATCH]),
        callbacks=[*given, *([resume] if resume else [])],
        shuffle=False,
        verbose=0,
    ).history


def weights(model: keras.Model) -> Result:
    return [float(x) for w in model.get_weights() for x in (w.sum(), np.abs(w).sum())]


def columns(path: Path) -> Result:
    with path.open(newline="") as file:
        return [float(v) for row in csv.DictReader(file) for _, v in sorted(row.items())]


def probe(directory: Path) -> Result:
    seen = callbacks.Probe(X[:BATCH], Y[:BATCH])
    seen.add(lambda each: {name: keras.ops.sum(x) for name, x in each.outputs.items()})
    return list(seen.run(make_model(), 0).values())


def watchers(directory: Path) -> dict[str, Result]:
    """Return the results of the callbacks that only watch, all in one training."""
    seen = callbacks.Probe(X[:BATCH], Y[:BATCH])
    interval: dict[str, Any] = {"interval": 3, "layers_in_logs": True}
    rate = callbacks.LearningRate(**interval)
    diagnostics = {
        "ActivationStatistics": callbacks.ActivationStatistics(seen, **interval),
        "DeadReLU": callbacks.DeadReLU(seen, **interval),
        "GradientNorm": callbacks.GradientNorm(seen, **interval),
        "LearningRate": rate,
        "UpdateRatio": callbacks.UpdateRatio(**interval),
    }
    best = callbacks.SaveBest(directory / "model.keras", "val_loss")
    stream = io.StringIO()
    model = make_model(learning_rate=OneCycle(0.1, STEPS * EPOCHS), use_ema=True, ema_momentum=0.8)
    history = fit(
        model,
        callbacks.AverageWeights(),
        callbacks.Progress(stream),
        *diagnostics.values(),
        callbacks.DiagnosticsLog([rate], directory / "diagnostics.csv"),
        callbacks.SaveHistory(directory / "history.csv"),
        callbacks.StepTime(directory / "times.csv"),
        best,
    )
    results = {name: list(each.metrics.values()) for name, each in diagnostics.items()}
    lines = stream.getvalue().splitlines()
    assert all(f"epoch {n}/{EPOCHS}" in line for n, line in enumerate(lines, start=1)), lines
    times = read_times(directory / "times.csv")
    return results | {
        "AverageWeights": [*history["val_loss"], *weights(model)],
        "Diagnostic": [rate.step, rate.measured_at],
        "DiagnosticsLog": columns(directory / "diagnostics.csv"),
        "Progress": [len(lines)],
        "SaveBest": [
            best.best_epoch,
            best.best,
            *weights(keras.saving.load_model(directory / "model.keras")),
        ],
        "SaveHistory": columns(directory / "history.csv"),
        "StepTime": [row[name] for row in times for name in ("epoch", "steps")],
    }


def lr_finder(directory: Path) -> Result:
    finder = callbacks.LRFinder(lowest=1e-4, highest=1e-1, steps=10)
    make_model().fit(batches(0), steps_per_epoch=10, callbacks=[finder], shuffle=False, verbose=0)
    return [*finder.learning_rates, *finder.losses]


def stop_at_step(directory: Path) -> Result:
    model = make_model()
    fit(model, callbacks.StopAtStep(7))
    return [int(model.optimizer.iterations), *weights(model)]


def unfreeze(directory: Path) -> Result:
    model = make_model()
    before = model.get_layer("stem_dense").get_weights()[0]
    history = fit(model, callbacks.Unfreeze(1, 1))
    assert (model.get_layer("stem_dense").get_weights()[0] == before).all()  # freed in epoch 4
    return [*history["loss"], *weights(model)]


class Interrupt(keras.callbacks.Callback):
    """Raise an error, or a signal, as the eighth step begins."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.number, self._taken = number, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._taken += 1
        if self._taken == 8:
            if self.number is None:
                raise InterruptedError
            signal.raise_signal(self.number)


def resume(directory: Path) -> Result:
    unbroken = make_model(use_ema=True)
    fit(unbroken, callbacks.AverageWeights())

    def part(*more: Any) -> keras.Model:
        model = make_model(use_ema=True)
        average = callbacks.AverageWeights()
        resume = callbacks.Resume(
            directory / "resume", batches, steps_per_epoch=STEPS, callbacks=[average], steps=3
        )
        fit(model, average, *more, resume=resume)
        assert resume.resumed_at == 6
        return model

    try:
        part(Interrupt())
    except InterruptedError:
        resumed = part()
    np.testing.assert_allclose(weights(resumed), weights(unbroken), rtol=1e-6)
    return weights(resumed)


def stop_on_signal(directory: Path) -> Result:
    resume = callbacks.Resume(directory / "signal", batches, steps_per_epoch=STEPS)
    stop = callbacks.StopOnSignal(resume)
    model = make_model()
    try:
        model.fit(
            batches(0), steps_per_epoch=STEPS, epochs=EPOCHS, shuffle=False, verbose=0,
            callbacks=[resume, stop, Interrupt(signal.SIGTERM)],
        )  # fmt: skip
    except SystemExit as ended:
        return [float(str(ended.code)), *sorted(resume.saved)]
    raise AssertionError("the training did not stop")


def stop_on_divergence(directory: Path) -> Result:
    resume = callbacks.Resume(directory / "divergence", batches, steps_per_epoch=STEPS)
    model = make_model(learning_rate=1e30)
    results: list[str] = []
    for given in ([resume, callbacks.StopOnDivergence(resume)], [callbacks.StopOnDivergence()]):
        try:
            model.fit(batches(0), steps_per_epoch=STEPS, callbacks=given, shuffle=False, verbose=0)
        except DivergedError as error:
            results.append(str(error))
    assert "at step 2 (epoch 1, step 2 of 5), with the learning rate 1e+30" in results[0], results
    assert "the first layer whose output is not finite is" in results[0], results
    assert "at step 2 of epoch 1" in results[1], results
    return [len(results)]


SCENARIOS: dict[str, Callable[[Path], Result]] = {
    "Probe": probe,
    "LRFinder": lr_finder,
    "Resume": resume,
    "StopAtStep": stop_at_step,
    "StopOnDivergence": stop_on_divergence,
    "StopOnSignal": stop_on_signal,
    "Unfreeze": unfreeze,
}


def schedules() -> dict[str, Result]:
    """Return the learning rates of every schedule, at steps before, in and after its end."""
    made: dict[str, Any] = {
        "WarmUp": WarmUp(OneCycle(0.1, 40), 10, start=0.01),
        "ConstantWarmUp": ConstantWarmUp(WarmUp(0.1, 20), 5, 0.02),
        "OneCycle": OneCycle(0.1, 40),
    }
    for name in SCHEDULES:
        options = [f"optimizer.schedule={name}", "optimizer.warmup_epochs=1", "training.epochs=4"]
        if name == "step":
            options.append("optimizer.decay_at_steps=[20, 30]")
        made[name] = make_schedule(load_recipe("digits-resnet20", options), 10)
    return {
        name: [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(0, 45, 5)]
        for name, schedule in made.items()
    }


def results_of(backend: str, directory: Path) -> dict[str, dict[str, Result]]:
    """Return the results of a process of its own: one scenario sends itself a signal."""
    process = subprocess.run(
        [sys.executable, __file__, str(directory)],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(Path(__file__).parents[4])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    results: dict[str, dict[str, Result]] = json.loads(process.stdout.splitlines()[-1])
    return results


def run_all(directory: Path) -> dict[str, dict[str, Result]]:
    """Return the results of callbacks and schedules by name."""
    directory.mkdir(parents=True)
    results = watchers(directory)
    for name, scenario in SCENARIOS.items():
        results[name] = [float(value) for value in scenario(directory)]
    return {"callbacks": results, "schedules": schedules()}


if __name__ == "__main__":
    print(json.dumps(run_all(Path(sys.argv[1]))))
