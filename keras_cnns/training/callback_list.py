"""The list of a run's callbacks, whose order matters."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_cnns.recipes import DataConfig, Recipe
from keras_cnns.runs.names import CHECKPOINTS, DIAGNOSTICS, HISTORY, MODEL, TENSORBOARD, TIMES
from keras_cnns.training.callbacks import (
    ActivationStatistics,
    AverageWeights,
    DeadReLU,
    DiagnosticsLog,
    GradientNorm,
    LearningRate,
    Probe,
    Progress,
    Resume,
    SaveBest,
    SaveHistory,
    StepTime,
    StopAtStep,
    StopOnDivergence,
    StopOnSignal,
    TensorBoard,
    Unfreeze,
    UpdateRatio,
)
from keras_cnns.training.callbacks.unfreeze import find_stages
from keras_cnns.training.model import accuracy_key
from keras_cnns.training.preparation import Preparation

_CLASSIFIER = "logits"  # the name of the last layer of the main output in every model
_LEARNING_RATE_INTERVAL = 10  # steps; short, because reading the learning rate is cheap
# Maximum number of images of the probe. A pass costs as much as a training step with a batch of
# this size.
_PROBE_IMAGES = 32

Callbacks = list[keras.callbacks.Callback]


@dataclass(frozen=True)
class RunCallbacks:
    """The callbacks of a run; those whose results the trainer needs also have their own fields."""

    in_order: Callbacks
    save_best: SaveBest
    resume: Resume
    stop_on_signal: StopOnSignal
    progress: Progress
    early_stopping: keras.callbacks.EarlyStopping | None  # None if the recipe has no early stopping

    @property
    def has_stopped_early(self) -> bool:
        """Return whether early stopping has ended the training."""
        return self.early_stopping is not None and self.early_stopping.stopped_epoch > 0

    def close(self) -> None:
        """Release the terminal and the signal handlers, even if `fit` has failed."""
        self.stop_on_signal.close()
        self.progress.close()


def make_callbacks(
    prepared: Preparation,
    run: Path,
    *,
    extra: Sequence[keras.callbacks.Callback] = (),
    installed: Sequence[keras.callbacks.Callback] = (),
    begin: keras.callbacks.Callback,
    batch: tuple[Any, ...],
    folds_after: int = 0,
    quiet: bool = False,
    **intervals: Any,
) -> RunCallbacks:
    """Return the callbacks of a run.

    Args:
        prepared: the prepared training.
        run: the run directory.
        extra: further callbacks, whose state is saved too.
        installed: the callbacks of other packages, such as trackers, whose state is not saved.
        begin: the callback that writes the first files of the run directory.
        batch: see `make_watchers`.
        folds_after: the number of folds that are trained after this training.
        quiet: if true, do not print the progress.
        intervals: `seconds` and `steps` between checkpoints; see `Resume`.
    """
    monitor = f"val_{accuracy_key(prepared.model)}"
    save_best = SaveBest(run / MODEL, monitor)
    early_stopping = _early_stopping(prepared, monitor)
    progress = _make_progress(prepared.recipe.data, folds_after, quiet)
    watchers = make_watchers(run, batch, progress)
    saved = [
        # These callbacks change the training, so they precede the callbacks that record or save it.
        # For example, `AverageWeights` assigns the averages that `SaveBest` saves after the
        # evaluation.
        *_make_recipe_callbacks(prepared.recipe),
        # Early stopping needs only the metrics of the evaluation. `Resume`, which follows it, saves
        # the number of epochs that early stopping has counted.
        *([early_stopping] if early_stopping else []),
        # `SaveBest` precedes the diagnostics, which add metrics to the epoch's logs. It needs only
        # the metrics of the evaluation, so the model is saved as early as possible.
        save_best,
        *watchers,
        # The extra callbacks follow ours, so that they see all metrics in the logs.
        *extra,
    ]
    # `Resume` follows all callbacks whose state it saves, because it captures and restores the
    # state at the beginning of a step, after these callbacks have begun the step.
    resume = Resume(
        run / CHECKPOINTS,
        prepared.batches,
        steps_per_epoch=prepared.training.steps,
        callbacks=saved,
        **intervals,
    )
    stop_on_signal = StopOnSignal(resume)
    in_order = [
        *saved,
        resume,
        # `begin` follows `resume`, so that nothing is written if `resume` raises an error because
        # the checkpoint does not fit.
        begin,
        # The installed callbacks follow `begin`, so that they find the recipe in the run directory.
        # Their state is not saved: otherwise, a package that was installed or removed in the
        # meantime would prevent resuming.
        *installed,
        # These follow `resume`, because they use it to save or restore the state.
        stop_on_signal,
        StopOnDivergence(resume),
    ]
    return RunCallbacks(in_order, save_best, resume, stop_on_signal, progress, early_stopping)


def make_watchers(run: Path, batch: tuple[Any, ...], progress: Progress | None = None) -> Callbacks:
    """Return the callbacks that show and record the course of a training, in their order.

    Args:
        run: the run directory.
        batch: images and targets, as in `fit`. The first of these images are the probe of the
            diagnostics.
        progress: the callback that shows the progress; by default, `Progress()`.
    """
    images, targets = keras.tree.map_structure(
        lambda each: keras.ops.convert_to_numpy(each[:_PROBE_IMAGES]), batch[:2]
    )
    probe = Probe(images, targets)
    diagnostics = [
        LearningRate(interval=_LEARNING_RATE_INTERVAL),
        GradientNorm(probe, last=_CLASSIFIER, layers_in_logs=True),
        UpdateRatio(layers_in_logs=True),
        DeadReLU(probe, layers_in_logs=True),
        ActivationStatistics(probe, layers_in_logs=True),
    ]
    return [
        # The progress precedes the diagnostics, so that the line of an epoch does not show their
        # metrics.
        progress or Progress(),
        *diagnostics,
        # These follow the diagnostics, whose metrics they write.
        DiagnosticsLog(diagnostics, run / DIAGNOSTICS),
        TensorBoard(run / TENSORBOARD, diagnostics),
        SaveHistory(run / HISTORY),
        StepTime(run / TIMES),  # last, so that its time includes the other callbacks
    ]


def _make_progress(data: DataConfig, folds_after: int, quiet: bool) -> Progress:
    prefix = f"fold {data.fold}/{data.folds}, " if data.fold else ""
    stream = io.StringIO() if quiet else None
    return Progress(stream, prefix=prefix, trainings_after=folds_after)


def _make_recipe_callbacks(recipe: Recipe) -> Callbacks:
    """Return the callbacks that the recipe asks for, which change the training."""
    callbacks: Callbacks = []
    if recipe.model.frozen_epochs:
        callbacks.append(Unfreeze(recipe.model.frozen_epochs, recipe.model.unfreeze_epochs))
    if recipe.optimizer.ema_momentum:
        callbacks.append(AverageWeights())
    if recipe.training.max_steps:
        callbacks.append(StopAtStep(recipe.training.max_steps))
    return callbacks


def _early_stopping(prepared: Preparation, monitor: str) -> keras.callbacks.EarlyStopping | None:
    """Return the callback that ends a training when the validation accuracy no longer rises.

    The callback begins to count epochs after the warm-up, after all stages are unfrozen and
    after the last decay of the schedule "step", because the accuracy is expected to rise again
    after them.
    """
    recipe, steps_per_epoch = prepared.recipe, prepared.training.steps
    patience, optimizer = recipe.training.early_stopping_patience, recipe.optimizer
    if not patience:
        return None
    unfrozen = recipe.model.frozen_epochs
    if recipe.model.unfreeze_epochs:
        unfrozen += recipe.model.unfreeze_epochs * (len(find_stages(prepared.model)) - 1)
    decays = (*optimizer.decay_at_epochs, *(x / steps_per_epoch for x in optimizer.decay_at_steps))
    return keras.callbacks.EarlyStopping(
        monitor=monitor,
        mode="max",
        patience=patience,
        start_from_epoch=math.ceil(max(unfrozen, optimizer.warmup_epochs, *decays)),
    )
