"""Estimate the steps, time and memory of a training by running a few steps."""

import math
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import psutil
import tensorflow as tf

from keras_cnns.durations import format_seconds
from keras_cnns.recipes import Recipe
from keras_cnns.training.preparation import prepare

_WARM_UP, _MEASURED = 3, 10  # steps


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a training."""

    parameters: int  # number of trainable parameters
    images: int  # number of images in an epoch
    steps_per_epoch: int
    steps: int  # number of steps of the whole training
    step_seconds: float  # median time of the measured steps
    seconds: float  # time of the whole training, without evaluation and checkpoints
    peak_bytes: int  # peak memory of this process after the measured steps
    available_bytes: int  # free memory of the machine before the first step


def estimate(recipe: Recipe) -> Estimate:
    """Run a few steps of a training without writing anything, and return the estimate.

    Raises:
        ValueError: there is no such model, data set or split, or a split is empty.
    """
    available = psutil.virtual_memory().available
    prepared = prepare(recipe)
    prepared.open_held_out()
    model, training = prepared.model, prepared.training
    times = []
    for images, targets in prepared.batches().take(_WARM_UP + _MEASURED):
        start = time.perf_counter()
        model.train_on_batch(*tf.nest.map_structure(np.asarray, (images, targets)))
        times.append(time.perf_counter() - start)
    step_seconds = statistics.median(times[_WARM_UP:])
    steps = recipe.training.max_steps or recipe.training.epochs * training.steps
    return Estimate(
        parameters=sum(math.prod(variable.shape) for variable in model.trainable_variables),
        images=training.num_examples,
        steps_per_epoch=training.steps,
        steps=steps,
        step_seconds=step_seconds,
        seconds=steps * step_seconds,
        peak_bytes=_peak_memory(),
        available_bytes=available,
    )


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes; if it is unknown, the current memory."""
    try:
        import resource
    except ImportError:  # on Windows, psutil reports the peak
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
            f"time      about {format_seconds(result.seconds)}, from {_MEASURED} measured steps of "
            f"{result.step_seconds * 1000:.0f} ms; evaluation is not included",
            f"memory    {result.peak_bytes / 2**30:.1f} GiB at its peak, of "
            f"{result.available_bytes / 2**30:.1f} GiB that were free",
        )
    )
