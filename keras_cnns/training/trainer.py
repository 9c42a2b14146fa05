"""Train a recipe's model, and write a run directory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras

from keras_cnns.data import Splits
from keras_cnns.files import naming_the_file, write_json
from keras_cnns.messages import print_message
from keras_cnns.recipes import Recipe, with_absolute_paths
from keras_cnns.runs.augmented import write_augmented
from keras_cnns.runs.directory import begin, check_data, opened_for_training
from keras_cnns.runs.ending import describe_ending, find_reason
from keras_cnns.runs.names import AUGMENTED, MODEL, RESULTS
from keras_cnns.runs.predictions import collect
from keras_cnns.runs.run import Run, open_run
from keras_cnns.runs.selective import find_thresholds
from keras_cnns.training.backend import check_backend
from keras_cnns.training.callback_list import make_callbacks
from keras_cnns.training.distribution import Distribution
from keras_cnns.training.initial_weights import check_initial_weights
from keras_cnns.training.installed_callbacks import make_installed
from keras_cnns.training.model import for_outputs
from keras_cnns.training.preparation import prepare
from keras_cnns.training.variables import fetch_variables


def train(
    recipe: Recipe,
    run: str | Path,
    *,
    checkpoint_seconds: float | None = 60.0,
    checkpoint_steps: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    folds_after: int = 0,
    distribution: Distribution | None = None,
    quiet: bool = False,
) -> Run:
    """Train a recipe's model and write a run directory.

    If the training was stopped or killed, the same call resumes it from its latest checkpoint, and
    the resulting weights are the same as without the interruption.

    The run directory is complete except for the report, which `keras-cnns train` or
    `keras_cnns.report.write_report(run.path, run.predictions)` adds.

    Args:
        recipe: the model, its data, and how to train it.
        run: the run directory, which is new or belongs to the same training.
        checkpoint_seconds: seconds between two checkpoints. If None, checkpoints are written only
            after `checkpoint_steps`.
        checkpoint_steps: steps between two checkpoints. If None, checkpoints are written only after
            `checkpoint_seconds`.
        callbacks: extra callbacks; their state is checkpointed.
        folds_after: the number of folds that are trained after this training. The remaining time
            that is printed includes them.
        distribution: the devices of the training, by default one device. With several processes,
            each of them makes this call; see `processes.connected`.
        quiet: if true, print only problems, but not the epochs and the result.

    Returns:
        The finished run, with the model of the epoch with the best validation accuracy. Its
        `predictions` are the predictions on the test split, or None if the run was finished before.
        In all processes except the first one, the run has no files.

    Raises:
        DistributionError: the devices cannot train this recipe, or the processes have different
            recipes or data.
        RunError: the directory is in use, belongs to another recipe or other data, or contains
            other files.
        CheckpointError: there are checkpoints, and all of them are damaged.
        DivergedError: the loss is not finite.
        InstalledCallbackError: a callback of another package fails; see `installed_callbacks`.
        ValueError: Keras' backend cannot train; there is no such model, data set or split, or a
            split is empty.
        WeightsError: the initial weights cannot be read or downloaded.
    """
    check_backend()
    run = Path(run)
    recipe = with_absolute_paths(recipe)
    distribution = distribution or Distribution()
    distribution.check(recipe)
    with distribution.opened(run) as directory, opened_for_training(directory, recipe):
        is_finished = (directory / RESULTS).exists()
        if distribution.is_first and is_finished:
            print_message(f"{run} is finished already; to train it anew, choose another directory")
        if distribution.agree(is_finished):
            return open_run(run) if distribution.is_first else Run(run, recipe, ())
        return _train(
            recipe,
            directory,
            checkpoint_seconds=checkpoint_seconds,
            checkpoint_steps=checkpoint_steps,
            extra_callbacks=callbacks,
            folds_after=folds_after,
            distribution=distribution,
            quiet=quiet,
        )


def _train(
    recipe: Recipe,
    run: Path,
    *,
    checkpoint_seconds: float | None,
    checkpoint_steps: int | None,
    extra_callbacks: Sequence[keras.callbacks.Callback],
    folds_after: int,
    distribution: Distribution,
    quiet: bool,
) -> Run:
    """Train in a locked run directory that has this recipe."""
    check_initial_weights(recipe)
    splits = Splits(recipe.data)
    data_fingerprint = splits.fingerprint()  # also checks the images of a folder
    check_data(run, data_fingerprint)
    distribution.share(run, recipe, data_fingerprint)
    if splits.corrections and not recipe.data.fold and not quiet:
        print_message(f"{recipe.data.corrections}: {splits.corrections.describe()}")
    prepared = prepare(recipe, splits, distribution)
    model, steps_per_epoch = prepared.model, prepared.training.steps
    validation, test = prepared.open_held_out()
    probe = prepared.probe()

    def write_first_files(logs: object) -> None:
        begin(run, recipe, splits.labels, data_fingerprint, splits.corrections)
        write_augmented(run / AUGMENTED, probe[0], probe[1], splits.labels)

    callbacks = make_callbacks(
        prepared,
        run,
        extra=extra_callbacks,
        installed=make_installed(recipe, run, quiet=quiet),
        begin=keras.callbacks.LambdaCallback(on_train_begin=write_first_files),
        batch=probe,
        seconds=checkpoint_seconds,
        steps=checkpoint_steps,
        folds_after=folds_after,
        quiet=quiet,
    )
    resume = callbacks.resume
    if resume.step and not quiet:
        print_message(f"{run}: resuming at step {resume.step}, in epoch {resume.epoch + 1}")
    try:
        model.fit(
            distribution.distribute(prepared.batches(resume.step)),
            steps_per_epoch=steps_per_epoch,
            validation_data=distribution.distribute(for_outputs(model, validation.epoch(0))),
            initial_epoch=resume.epoch,
            epochs=recipe.training.epochs,
            callbacks=callbacks.in_order,
            shuffle=False,  # the data set is shuffled already
            verbose=0,  # a callback shows the progress
        )
    finally:
        callbacks.close()
    fetch_variables(model)
    distribution.finish()
    if not distribution.is_first:
        return Run(run, recipe, splits.labels)
    model.load_weights(run / MODEL)
    predictions = collect(model, test)
    held_out = predictions
    if recipe.data.validation_split != recipe.data.test_split:
        batch_size = recipe.training.batch_size
        labelled = splits.open(recipe.data.validation_split, batch_size=batch_size)
        held_out = collect(model, labelled, worst=0)
    confidence = find_thresholds(
        recipe.data.validation_split, held_out.confidences, held_out.is_correct
    )
    results = {
        "training_seconds": round(resume.training_seconds, 1),
        "best_epoch": callbacks.save_best.best_epoch,
        "last_epoch": -(-resume.step // steps_per_epoch),
        "ended_by": find_reason(
            recipe,
            resume.step,
            steps_per_epoch,
            has_stopped_early=callbacks.has_stopped_early,
        ),
        "test": predictions.metrics(),
        "test_classes": predictions.count_classes(),
        "confidence": confidence.to_dict(),
    }
    if not quiet:
        print_message(f"{run}: {describe_ending(recipe, results)}")
    with naming_the_file(run / RESULTS):
        write_json(run / RESULTS, results)
    return replace(open_run(run), predictions=predictions)
