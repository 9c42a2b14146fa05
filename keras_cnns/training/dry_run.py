"""Estimate a training's steps, time and memory from a few of its steps."""

import statistics
import sys
import time
from dataclasses import dataclass

import keras
import psutil

from keras_cnns.data import Splits
from keras_cnns.recipes import Recipe
from keras_cnns.training.compiling import build_model, compile_model, for_outputs
from keras_cnns.training.initial_weights import find_initial_weights

WARM_UP, MEASURED = 3, 10  # steps


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a training."""

    parameters: int  # trainable parameters
    images: int  # images per epoch
    steps_per_epoch: int
    steps: int  # steps of the whole training
    step_seconds: float  # median of the measured steps
    seconds: float  # the whole training, without evaluation and checkpoints
    peak_bytes: int  # peak memory of this process after the measured steps
    available_bytes: int  # free memory of the machine before the first step


def estimate(recipe: Recipe) -> Estimate:
    """Run a few steps of a training without writing anything, and return the estimate.

    Raises:
        ValueError: there is no such model, data set or split, or a split is empty.
    """
    find_initial_weights(recipe)
    keras.utils.set_random_seed(recipe.training.seed)
    available = psutil.virtual_memory().available
    data, splits = recipe.data, Splits(recipe.data)
    training = splits.open(
        data.train_split,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        augmentation=recipe.augmentation,
        check_first=True,
    )
    # A missing split should be reported now, not after the first epoch.
    for split in (data.validation_split, data.test_split):
        splits.open(split, batch_size=recipe.training.batch_size, check_first=True)
    model = build_model(recipe, len(splits.labels))
    compile_model(model, recipe, training.steps)
    times = []
    for images, targets in for_outputs(model, training.steps_from(0).take(WARM_UP + MEASURED)):
        start = time.perf_counter()
        model.train_on_batch(images, targets)
        times.append(time.perf_counter() - start)
    step_seconds = statistics.median(times[WARM_UP:])
    steps = recipe.training.max_steps or recipe.training.epochs * training.steps
    return Estimate(
        parameters=sum(variable.shape.num_elements() for variable in model.trainable_variables),
        images=training.num_examples,
        steps_per_epoch=training.steps,
        steps=steps,
        step_seconds=step_seconds,
        seconds=steps * step_seconds,
        peak_bytes=peak_memory(),
        available_bytes=available,
    )


def peak_memory() -> int:
    """Return the peak memory of this process in bytes; its current memory if there is no peak."""
    try:
        import resource
    except ImportError:  # Windows, where psutil knows the peak
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe(recipe: Recipe, result: Estimate) -> str:
    """Return an estimate as text."""
    return "\n".join(
        (
            f"model     {recipe.model.name}, {result.parameters:,} trainable parameters",
            f"steps     {result.steps:,}: {recipe.training.epochs} epochs of "
            f"{result.steps_per_epoch:,}, with {result.images:,} images in batches of "
            f"{recipe.training.batch_size}",
            f"time      {_duration(result.seconds)}, from {MEASURED} measured steps of "
            f"{result.step_seconds * 1000:.0f} ms; evaluation is not included",
            f"memory    {result.peak_bytes / 2**30:.1f} GiB at its peak, of "
            f"{result.available_bytes / 2**30:.1f} GiB that were free",
        )
    )


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    for value, unit in ((days, "days"), (hours, "hours"), (minutes, "minutes")):
        if value >= 2:
            return f"about {value:.1f} {unit}"
    return f"about {seconds:.0f} seconds"
