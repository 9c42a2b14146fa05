"""Train on several devices of one host with TensorFlow's MirroredStrategy.

Each device has a replica of the model and computes a part of each batch. The replicas add their
gradients, so that all of them take the same step. Loss, gradient, batch normalisation, dropout and
metrics are those of the whole batch:

- A batch of n images is divided into gcd(n, number of replicas) equal parts. If there are fewer
  parts than replicas, each part goes to the same number of replicas. The mean over the replicas is
  therefore always the mean over the images, and Keras' training step, which divides each loss by
  the number of replicas, computes the gradient of the whole batch.
- Only one replica of each part counts its images in the metrics.
- If the result of a layer or loss depends on the whole batch, its replicas exchange data: see
  `keras_cnns.replicas`.
"""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.keras_internals import symbolic_build, use_one_device_by_default
from keras_cnns.recipes import Recipe
from keras_cnns.replicas import ReplicaPart, part_of_batch
from keras_cnns.training.distribution import (
    Distribution,
    DistributionError,
    use_compiled_steps,
)

# Argument of Keras' optimizers -> why it is rejected on several devices. This project's optimizers
# "momentum" and "lars" do the same as on one device: see `keras_cnns.optimizers.replicas`.
_CLIPS = "Keras clips the gradient of each device's part of a batch, not that of the whole batch"
_FAILS = "Keras' optimizers do not support it on several devices"
_REFUSED_ARGUMENTS = {
    "clipnorm": _CLIPS,
    "clipvalue": _CLIPS,
    "global_clipnorm": _CLIPS,
    "gradient_accumulation_steps": _FAILS,
    "ema_overwrite_frequency": _FAILS,
}


def check_recipe(recipe: Recipe) -> None:
    """Raise DistributionError if replicas would train a recipe differently from one device."""
    optimizer, other_ways = recipe.optimizer, "or set KERAS_BACKEND=jax, or omit --devices"
    if recipe.model.batch_norm_noise:
        raise DistributionError(
            f"model.batch_norm_noise is {recipe.model.batch_norm_noise}, and TensorFlow would draw "
            f"the same noise for each device's part of a batch; set it to 0, {other_ways}"
        )
    for argument, reason in _REFUSED_ARGUMENTS.items():
        if optimizer.arguments.get(argument) and optimizer.name.lower() != "lars":
            raise DistributionError(
                f"optimizer.arguments.{argument} is {optimizer.arguments[argument]}, and with "
                f"TensorFlow, {reason}; remove it, {other_ways}"
            )


def on_local_replicas(count: int) -> Distribution:
    """Return a distribution over the first `count` GPUs of this host.

    If the host has no GPUs, the devices are virtual devices that share its CPU.

    Raises:
        DistributionError: there are too few GPUs, or TensorFlow has already started and can no
            longer divide the CPU.
    """
    if count == 1:
        return Distribution()
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU":
        cpu, *_ = tf.config.list_physical_devices("CPU")
        virtual = [tf.config.LogicalDeviceConfiguration()] * count
        try:
            tf.config.set_logical_device_configuration(cpu, virtual)
        except RuntimeError as error:
            raise DistributionError(f"the CPU cannot be divided: {error}") from None
    found = tf.config.list_logical_devices(kind)
    if len(found) < count:
        raise DistributionError(
            f"--devices is {count}, but the number of devices ({kind.lower()}) is only "
            f"{len(found)}; use at most {len(found)}"
        )
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it would list the devices
    names = tuple(device.name for device in found[:count])
    return MirroredDistribution(names, strategy=tf.distribute.MirroredStrategy(names))


@dataclass(frozen=True, kw_only=True)
class MirroredDistribution(Distribution):
    """The replicas of a training.

    Attributes:
        strategy: the strategy of TensorFlow that copies the variables to all devices.
    """

    strategy: Any

    def check(self, recipe: Recipe) -> None:
        """Raise DistributionError if replicas cannot train a recipe as one device does."""
        super().check(recipe)
        check_recipe(recipe)

    def scope(self) -> AbstractContextManager[Any]:
        """Return a context manager; within it, variables of a model are created on all devices."""
        scope: AbstractContextManager[Any] = self.strategy.scope()
        return scope

    def distribute(self, dataset: tf.data.Dataset) -> Any:
        """Return a dataset whose elements are the parts of a batch, one for each replica."""
        divisible = dataset.map(self._make_divisible, num_parallel_calls=1)
        return self.strategy.experimental_distribute_dataset(without_autotuning(divisible))

    def attach(self, model: keras.Model, batches: Callable[[], Any]) -> None:
        """Make `fit` and `evaluate` of a compiled model run on all devices."""
        with self.scope():
            symbolic_build(model, batches().element_spec)  # creates the variables of the metrics
        use_one_device_by_default(model)
        use_compiled_steps(model, partial(self._compiled, model))

    def _make_divisible(self, images: tf.Tensor, targets: Any) -> tuple[Any, ...]:
        """Repeat the images of a batch until the replicas can have equally many of them.

        [n, ...] -> [n * replicas / parts, ...] for images and targets, with parts = gcd(n,
        replicas). The third element of the result has one entry for each repeated image; every
        entry is n, the number of images before the repetition.
        """
        replicas = self.strategy.num_replicas_in_sync
        total = tf.shape(images)[0]
        repetitions = [replicas // math.gcd(rest, replicas) for rest in range(replicas)]
        count = tf.constant(repetitions)[total % replicas]

        def repeat(x: tf.Tensor) -> tf.Tensor:
            return tf.tile(x, [count, *[1] * (x.shape.rank - 1)])

        repeated = tf.nest.map_structure(repeat, (images, targets))
        return (*repeated, tf.fill([total * count], total))

    def _compiled(self, model: keras.Model, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return the function iterator -> logs that Keras' loops call."""
        # Variables of the metrics in which only one replica of each part counts its images. In the
        # losses of outputs, such as "main_loss", all replicas count: Keras averages these losses
        # over batches, not over images (unless the batch size is fixed).
        metrics = [
            variable.value
            for metric in model.metrics
            if not metric.name.endswith("_loss")
            for variable in metric.variables
        ]

        def on_replica(images: Any, targets: Any, totals: Any) -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            count, total = tf.shape(totals)[0], totals[0]
            parts = total // count
            part = ReplicaPart(replica % parts * count, count, total)
            before = [tf.identity(metric) for metric in metrics]
            with part_of_batch(part):
                step((images, targets))
            for metric, value in zip(metrics, before, strict=True):
                metric.assign(tf.where(replica < parts, metric, value))

        @tf.function(reduce_retracing=True)
        def on_all(iterator: Any) -> Any:
            self.strategy.run(on_replica, args=next(iterator))
            with self.scope():
                return model.get_metrics_result()

        def function(iterator: Any) -> Any:
            if not isinstance(iterator, tf.distribute.DistributedIterator):
                # `train_on_batch` passes a generator of one batch.
                images, targets, *_ = next(iterator)
                one = tf.data.Dataset.from_tensors((images, targets))
                iterator = iter(self.distribute(one))
            return on_all(iterator)

        return function
