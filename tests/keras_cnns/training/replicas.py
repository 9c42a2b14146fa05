"""Replicas against one device, in float64; `test_mirrored.py` runs this in a process of its own.

TensorFlow divides a CPU into virtual devices only before it starts. In float64, rounding stays
below every tolerance, so that the learning rate may be as high as in a real training.
"""

import functools
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_model import register

from keras_cnns.models import cpu_kernels
from keras_cnns.models.heads import deep_recursion
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.replicas import ReplicaPart, current_part
from keras_cnns.training.distribution import Distribution
from keras_cnns.training.mirrored import MirroredDistribution, on_local_replicas
from keras_cnns.training.model import build_model, compile_model

CLASSES = 10
REPLICAS = int(os.environ["REPLICAS"])  # a process can have one strategy on a CPU
Batch = tuple[np.ndarray, Any]
Values = list[tuple[str, Any]]  # name -> value, in the same order in each training
WEIGHTS = np.linspace(0.3, 2, CLASSES)  # of the classes


@pytest.fixture(scope="session")
def mirrored() -> Distribution:
    """Return a distribution of as many virtual devices as the environment variable demands."""
    distribution = on_local_replicas(REPLICAS)
    tf.config.experimental.enable_op_determinism()
    return distribution


@pytest.fixture(autouse=True)
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute batch normalisation, whose fused kernel is float32 only, by the replicas' formula."""

    def composed(layer: Any, inputs: Any, training: bool) -> Any:
        if training:
            count = tf.shape(inputs)[0]
            part = current_part() or ReplicaPart(0, count, count)
            return cpu_kernels._normalise_on_replicas(layer, inputs, part)
        return keras.layers.BatchNormalization.call(layer, inputs, training=False)

    monkeypatch.setattr(cpu_kernels, "has_fused_batch_norm", lambda *_: True)
    monkeypatch.setattr(cpu_kernels, "fused_batch_norm", composed)
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def build(recipe: Recipe) -> keras.Model:
    """Return a recipe's model with all layers in float64."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    with deep_recursion():
        return keras.models.clone_model(build_model(recipe, CLASSES), clone_function=copy)


def make_batches(recipe: Recipe, sizes: tuple[int, ...], outputs: Any) -> list[Batch]:
    generator = np.random.default_rng(0)
    batches = []
    for size in sizes:
        images = generator.integers(0, 256, (size, 32, 32, 1)).astype("float64")
        labels: Any = generator.integers(0, CLASSES, size)
        if recipe.soft_targets:
            labels = WEIGHTS[labels, None] * np.eye(CLASSES)[labels]
        targets = dict.fromkeys(outputs, labels) if isinstance(outputs, dict) else labels
        batches.append((images, targets))
    return batches


def as_dataset(batches: list[Batch]) -> tf.data.Dataset:
    # `from_generator` would share the arrays' memory with TensorFlow, which may overwrite it.
    parts = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    return functools.reduce(lambda data, part: data.concatenate(part), parts)


class Record(keras.callbacks.Callback):
    """Record the logs of each step and each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.logs.append(dict(logs or {}))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.logs.append(dict(logs or {}))


def train(
    recipe: Recipe, sizes: tuple[int, ...], distribution: Distribution, frozen: tuple[str, ...]
) -> Values:
    """Return all metrics and variables of a training of two epochs; check that replicas agree."""
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = build(recipe)
        for layer in model.layers:
            layer.trainable = layer.name not in frozen
        compile_model(model, recipe, len(sizes))
    data = as_dataset(make_batches(recipe, sizes, model.output))
    distribution.attach(model, lambda: data)
    record = Record()
    model.fit(
        distribution.distribute(data.repeat()),
        steps_per_epoch=len(sizes),
        epochs=2,
        validation_data=distribution.distribute(data),
        callbacks=[record],
        shuffle=False,
        verbose=0,
    )
    values: Values = [
        (f"{name} {number}", float(value))
        for number, each in enumerate(record.logs)
        for name, value in each.items()
    ]
    for variable in [*model.variables, *model.optimizer.variables]:
        copies = [variable.value]
        if isinstance(distribution, MirroredDistribution):
            copies = distribution.strategy.experimental_local_results(variable.value)
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy.numpy(), copies[0].numpy(), variable.path)
        values.append((variable.path, copies[0].numpy()))
    return values


LARS = (
    "optimizer.name=lars",
    "optimizer.arguments={clipnorm = 0.5, gradient_accumulation_steps = 2}",
)
WEIGHTED = ("class_balance.weights=inverse", "class_balance.focal_gamma=2.0")


# Number of replicas -> (name, sizes of the batches, frozen layers, changes of the recipe). The
# batches cover: as many images for each replica; a batch of which each replica computes the whole,
# or of which two replicas compute the same half; fewer images than replicas.
CASES: dict[int, list[tuple[str, tuple[int, ...], tuple[str, ...], tuple[str, ...]]]] = {
    2: [
        ("tiny", (8, 8, 5), (), ()),
        ("tiny", (8, 5), ("stem_conv", "stem_bn"), ()),
        ("tiny", (8, 7), (), ("optimizer.name=adam", "optimizer.ema_momentum=0.9")),
        ("resnet20", (6, 5), (), ("model.shortcut=dropout",)),
        ("googlenet_bn", (6, 5), (), ("model.aux_heads=true", "model.width=0.25", *WEIGHTED)),
    ],
    3: [("tiny", (6, 6, 2), (), ("optimizer.ema_momentum=0.9",))],
    4: [
        ("tiny", (8, 6, 1), (), ("model.aux_heads=true", *WEIGHTED)),
        ("tiny", (8, 6, 3), (), ("optimizer.ema_momentum=0.9", *LARS)),
    ],
}


@pytest.mark.parametrize(("name", "sizes", "frozen", "changes"), CASES[REPLICAS])
def test_replicas_are_one_device(
    name: str,
    sizes: tuple[int, ...],
    frozen: tuple[str, ...],
    changes: tuple[str, ...],
    mirrored: Distribution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "tiny":
        register(monkeypatch)
        name = "resnet20"
    recipe = load_recipe("digits-resnet20", [f"model.name={name}", *changes])
    expected = train(recipe, sizes, Distribution(), frozen)
    actual = train(recipe, sizes, mirrored, frozen)
    for (place, value), (_, mine) in zip(expected, actual, strict=True):
        # Keras rounds 1 / 3 to float32, and some optimizers compute in float32.
        np.testing.assert_allclose(mine, value, rtol=1e-6, atol=1e-7, err_msg=place)
    losses = [value for place, value in expected if place.startswith("loss")]
    assert np.ptp(losses) > 0.01  # the model is being trained
