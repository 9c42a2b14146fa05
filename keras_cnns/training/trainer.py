"""From a recipe to a run directory: build, compile, fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_cnns.data import Split, Splits
from keras_cnns.recipes import Recipe, with_absolute_paths
from keras_cnns.report import write_report
from keras_cnns.report.predictions import collect
from keras_cnns.training.callbacks import (
    Resume,
    SaveBest,
    StopOnDivergence,
    StopOnSignal,
)
from keras_cnns.training.compiling import accuracy_key, build_model, compile_model, for_outputs
from keras_cnns.training.files import needed
from keras_cnns.training.initial_weights import find_initial_weights
from keras_cnns.training.messages import say
from keras_cnns.training.run import (
    CHECKPOINTS,
    MODEL,
    RESULTS,
    Run,
    begin,
    check_data,
    open_run,
    opened_for_training,
    write_json,
)
from keras_cnns.training.steering import make_steering
from keras_cnns.training.watching import make_watchers


def train(
    recipe: Recipe,
    run: str | Path,
    *,
    checkpoint_seconds: float | None = 60.0,
    checkpoint_steps: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Train a recipe's model and write a run directory.

    If the training was stopped or killed, the same call resumes it from its latest checkpoint; the
    resulting weights are the same as without the interruption.

    Args:
        recipe: the model, its data, and how to train it.
        run: the run directory: a new one, or that of this training.
        checkpoint_seconds: time between two checkpoints; None: they are written only by steps.
        checkpoint_steps: steps between two checkpoints; None: they are written only by time.
        callbacks: extra callbacks; their state is checkpointed.

    Returns:
        The finished run; its model is that of the epoch with the best validation accuracy.

    Raises:
        RunError: the directory is in use, belongs to another recipe or other data, or holds
            something else.
        CheckpointError: there are checkpoints, and none is intact.
        DivergedError: the loss is not finite.
        ValueError: there is no such model, data set or split, or a split is empty; or, as a
            WeightsError, the initial weights cannot be read or downloaded.
    """
    run = Path(run)
    recipe = with_absolute_paths(recipe)
    with opened_for_training(run, recipe):
        if (run / RESULTS).exists():
            say(f"{run} is finished already; to train it anew, choose another directory")
            return open_run(run)
        find_initial_weights(recipe)
        make_reproducible(recipe.training.seed)
        batch_size, splits = recipe.training.batch_size, Splits(recipe.data)
        data_fingerprint = splits.fingerprint()  # which also checks the images of a folder
        check_data(run, data_fingerprint)
        labels = splits.labels
        training = splits.open(
            recipe.data.train_split,
            batch_size=batch_size,
            seed=recipe.training.seed,
            augmentation=recipe.augmentation,
        )
        validation = splits.open(
            recipe.data.validation_split,
            batch_size=batch_size,
            one_hot=recipe.augmentation.soft_targets,
        )
        # A missing test split should be reported now, not after the last epoch.
        test = splits.open(recipe.data.test_split, batch_size=batch_size)
        model = build_model(recipe, len(labels))
        compile_model(model, recipe, training.steps)
        begins = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: begin(run, recipe, labels, data_fingerprint)
        )
        intervals = {"seconds": checkpoint_seconds, "steps": checkpoint_steps}
        _fit(model, recipe, run, (training, validation, test), callbacks, begins, intervals)
        return open_run(run)


def make_reproducible(seed: int) -> None:
    """Seed all random generators; on a CPU, also make every operation deterministic."""
    keras.utils.set_random_seed(seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def _fit(
    model: keras.Model,
    recipe: Recipe,
    run: Path,
    splits: tuple[Split, Split, Split],
    more_callbacks: Sequence[keras.callbacks.Callback],
    begins: keras.callbacks.Callback,
    intervals: dict[str, Any],
) -> None:
    training, validation, test = splits

    def batches(step: int) -> tf.data.Dataset:
        return for_outputs(model, training.steps_from(step))

    save_best = SaveBest(run / MODEL, f"val_{accuracy_key(model)}")
    callbacks = [
        *make_steering(recipe),
        save_best,
        *make_watchers(run, next(iter(for_outputs(model, training.probe())))),
        *more_callbacks,
    ]
    resume = Resume(
        run / CHECKPOINTS,
        batches,
        steps_per_epoch=training.steps,
        callbacks=callbacks,
        **intervals,
    )
    stop_on_signal = StopOnSignal(resume)
    if resume.step:
        say(f"{run}: going on from step {resume.step}, in epoch {resume.epoch + 1}")
    try:
        model.fit(
            batches(resume.step),
            steps_per_epoch=training.steps,
            validation_data=for_outputs(model, validation.epoch(0)),
            initial_epoch=resume.epoch,
            epochs=recipe.training.epochs,
            # The directory is written to once the checkpoint is known to fit.
            callbacks=[*callbacks, resume, begins, stop_on_signal, StopOnDivergence(resume)],
            shuffle=False,  # the data set shuffles itself
            verbose=0,  # a callback shows the progress
        )
    finally:
        stop_on_signal.close()
    model.load_weights(run / MODEL)
    predictions = collect(model, test)
    results = {
        "training_seconds": round(resume.training_seconds, 1),
        "best_epoch": save_best.best_epoch,
        "test": predictions.metrics(),
    }
    with needed(run / RESULTS):
        write_json(run / RESULTS, results)
    try:
        write_report(run, predictions)
    except OSError as error:
        say(f"cannot write the report: {error.strerror}; `keras-cnns report {run}` tries again")
