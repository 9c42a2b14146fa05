"""What a training would take: its recipe resolved, its steps, its time and its memory."""

import resource
import statistics
import sys
import time
from dataclasses import dataclass

import keras
import psutil

from keras_cnns.data import open_split, read_labels
from keras_cnns.recipes import Recipe
from keras_cnns.training.compiling import build_model, compile_model, for_outputs

WARM_UP, MEASURED = 3, 10  # steps


@dataclass(frozen=True)
class Estimate:
    """What a training would take."""

    parameters: int  # that learn
    images: int  # of an epoch
    steps_per_epoch: int
    steps: int  # in all
    step_seconds: float  # the median of ten
    seconds: float  # in all, without evaluation and checkpoints
    peak_bytes: int  # of this process's memory, after ten steps
    available_bytes: int  # that this machine had left


def estimate(recipe: Recipe) -> Estimate:
    """Take ten steps of a training, and write nothing.

    Raises:
        ValueError: there is no such model, data set or split.
    """
    keras.utils.set_random_seed(recipe.training.seed)
    available = psutil.virtual_memory().available
    data = recipe.data
    training = open_split(
        data,
        data.train_split,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        augmentation=recipe.augmentation,
    )
    # A missing split is better known now than after the first epoch.
    for split in (data.validation_split, data.test_split):
        open_split(data, split, batch_size=recipe.training.batch_size)
    model = build_model(recipe, len(read_labels(data)))
    compile_model(model, recipe, training.steps)
    times = []
    for images, targets in for_outputs(model, training.steps_from(0).take(WARM_UP + MEASURED)):
        start = time.perf_counter()
        model.train_on_batch(images, targets)
        times.append(time.perf_counter() - start)
    step_seconds = statistics.median(times[WARM_UP:])
    steps = recipe.training.steps or recipe.training.epochs * training.steps
    unit = 1 if sys.platform == "darwin" else 1024
    return Estimate(
        parameters=sum(variable.shape.num_elements() for variable in model.trainable_variables),
        images=training.samples,
        steps_per_epoch=training.steps,
        steps=steps,
        step_seconds=step_seconds,
        seconds=steps * step_seconds,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        available_bytes=available,
    )


def describe(recipe: Recipe, result: Estimate) -> str:
    """Return an estimate in words."""
    return "\n".join(
        (
            f"net       {recipe.model.name}, {result.parameters:,} parameters that learn",
            f"steps     {result.steps:,}: {recipe.training.epochs} epochs of "
            f"{result.steps_per_epoch:,}, of {result.images:,} images in batches of "
            f"{recipe.training.batch_size}",
            f"time      {_duration(result.seconds)}, by {MEASURED} measured steps of "
            f"{result.step_seconds * 1000:.0f} ms; evaluation comes on top",
            f"memory    {result.peak_bytes / 2**30:.1f} GiB at the most so far, of "
            f"{result.available_bytes / 2**30:.1f} GiB that were free",
        )
    )


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    for value, unit in ((days, "days"), (hours, "hours"), (minutes, "minutes")):
        if value >= 2:
            return f"about {value:.1f} {unit}"
    return f"about {seconds:.0f} seconds"
