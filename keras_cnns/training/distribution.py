"""Train on several devices, in one process or in several processes, with JAX.

`keras_cnns.training.mirrored` trains on several devices with TensorFlow, in one process.

Every device computes a part of each batch, and XLA sums over all parts, so that the loss, its
gradient, the statistics of batch normalisation and the metrics are those of the whole batch. If the
size of a batch is not a multiple of the number of devices, every device computes the whole batch,
which gives the same values.

Each process reads its own part of a batch (`keras_cnns.data.pipeline.Part`). All processes take
the same steps with the same callbacks. The first process has the run directory. Each of the other
processes has a temporary directory, which receives the checkpoint from which the first process
resumes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cnns.data.pipeline import Part
from keras_cnns.recipes import Recipe

_AXIS = "batch"


class DistributionError(ValueError):
    """A training cannot be distributed; the message gives the reason and a remedy."""


@dataclass(frozen=True)
class Distribution:
    """The devices of a training.

    Attributes:
        devices: the devices of all processes; if empty, the backend trains on one device as usual.
        process_id: the number of this process, from 0.
        processes: the number of processes, each with the same number of devices.
    """

    devices: tuple[Any, ...] = ()
    process_id: int = 0
    processes: int = 1

    @property
    def is_first(self) -> bool:
        """Return whether this process writes the run directory."""
        return self.process_id == 0

    @property
    def part(self) -> Part:
        """The part of each batch that this process reads."""
        return Part(self.process_id, self.processes, len(self.devices) or 1)

    def check(self, recipe: Recipe) -> None:
        """Raise DistributionError unless a recipe's batches can be divided among the devices."""
        check_batch_size(recipe.training.batch_size, len(self.devices) or 1)

    @contextmanager
    def opened(self, run: Path) -> Iterator[Path]:
        """Yield the directory into which this process writes."""
        yield run

    def share(self, run: Path, recipe: Recipe, data_fingerprint: str) -> None:
        """Send the first process's checkpoint to the others, and compare their recipes and data."""

    def agree(self, state: Any) -> Any:
        """Return the first process's values of a training state."""
        return state

    def finish(self) -> None:
        """Disconnect the processes after the last step; the first process continues alone."""

    def scope(self) -> AbstractContextManager[Any]:
        """Return a context manager; a model must be built and compiled within it."""
        return nullcontext()

    def distribute(self, dataset: Any) -> Any:
        """Return a dataset of batches in the form that `fit` needs."""
        return dataset

    def attach(self, model: keras.Model, batches: Callable[[], Any]) -> None:
        """Make `fit` and `evaluate` of a compiled model run on all devices.

        Args:
            model: a model that was built and compiled in `scope`.
            batches: a function that returns the training's data set.
        """
        if not self.devices:
            return
        import jax

        use_compiled_steps(model, partial(_Steps(self).compiled, jax))


def use_compiled_steps(
    model: keras.Model, compiled: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
) -> None:
    """Make `fit` and `evaluate` of a compiled model run the functions that `compiled` returns.

    Args:
        model: the model.
        compiled: a function that takes `model.train_step` or `model.test_step`. It returns a
            function that takes an iterator of batches, and runs this step on the next batch.
    """

    def make_train_function(force: bool = False) -> None:
        if model.train_function is None or force:
            model.train_function = compiled(model.train_step)

    def make_test_function(force: bool = False) -> None:
        if model.test_function is None or force:
            model.test_function = compiled(model.test_step)

    # `fit` and `evaluate` call these functions, even after the model was compiled again.
    model.make_train_function = make_train_function
    model.make_test_function = make_test_function


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raise DistributionError if a batch size is not a multiple of the number of devices."""
    if batch_size % devices:
        lower = batch_size // devices * devices
        choices = f"{lower} or {lower + devices}" if lower else str(devices)
        raise DistributionError(
            f"training.batch_size is {batch_size}, and {devices} devices cannot divide such a "
            f"batch equally; use a multiple of {devices}, such as {choices}"
        )


def on_local_devices(count: int) -> Distribution:
    """Return a distribution over the first `count` devices of this process.

    Raises:
        DistributionError: the process has too few devices.
    """
    import jax

    found = jax.devices()
    if len(found) < count:
        raise DistributionError(
            f"--devices is {count}, but the number of devices ({found[0].platform}) is only "
            f"{len(found)}; use at most {len(found)}"
        )
    return Distribution(tuple(found[:count]))


class _Steps:
    """Functions that Keras' loops call; they place states and batches on the devices."""

    def __init__(self, distribution: Distribution) -> None:
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(distribution.devices), (_AXIS,))
        self._distribution, self._has_agreed = distribution, False
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._divided = NamedSharding(mesh, PartitionSpec(_AXIS))

    def compiled(self, jax: Any, step: Any) -> Any:
        """Return a compiled function (state, iterator) -> (logs, state) for Keras' loops."""
        compiled = jax.jit(step, donate_argnums=0, out_shardings=self._replicated)

        def function(state: Any, iterator: Any) -> Any:
            if not self._has_agreed:
                state, self._has_agreed = self._distribution.agree(state), True
            batch = self._place_batch(jax, next(iterator))
            placed = jax.tree.map(lambda x: self._place(jax, x, self._replicated), state)
            return compiled(placed, batch)

        return function

    def _place_batch(self, jax: Any, batch: tuple[Any, ...]) -> tuple[Any, Any]:
        """Divide a batch among the devices, or copy an indivisible one to each device.

        With several processes, a batch has a third element with one entry for each image. Every
        entry is the number of images of the whole batch; see `Part`.
        """
        images, targets, *counts = batch
        count = len(images)
        total = int(counts[0][0]) if counts and counts[0] is not None else count
        is_whole = count == total and (
            self._distribution.processes > 1 or count % len(self._distribution.devices)
        )
        sharding = self._replicated if is_whole else self._divided
        placed = jax.tree.map(lambda x: self._place(jax, x, sharding), (images, targets))
        return placed[0], placed[1]

    def _place(self, jax: Any, value: Any, sharding: Any) -> Any:
        if getattr(value, "sharding", None) == sharding:
            return value
        if self._distribution.processes == 1:
            return jax.device_put(value, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(value))
