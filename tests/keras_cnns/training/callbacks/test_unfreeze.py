"""Frozen stages do not change by a bit, and are unfrozen from the last to the first."""

import keras
import numpy as np
import pytest

from keras_cnns.models import build
from keras_cnns.optimizers import Momentum
from keras_cnns.training.callbacks import StopAtStep, Unfreeze
from keras_cnns.training.callbacks.unfreeze import find_stages

STAGES = ["stem", "stage1", "stage2", "stage3"]


class Moved(keras.callbacks.Callback):
    """Which stages, and whether the classifier, moved in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[list[str]] = []

    def weights(self) -> dict[str, list[np.ndarray]]:
        stages = {**find_stages(self.model), "classifier": [self.model.get_layer("logits")]}
        return {
            name: [value for layer in layers for value in layer.get_weights()]
            for name, layers in stages.items()
        }

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.before = self.weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs.append(
            [
                name
                for name, values in self.weights().items()
                if any(
                    not np.array_equal(old, new)
                    for old, new in zip(self.before[name], values, strict=True)
                )
            ]
        )


def tiny_net() -> keras.Model:
    inputs = x = keras.Input((3,))
    for stage in STAGES:
        x = keras.layers.Dense(4, name=f"{stage}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{stage}_bn")(x)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="logits")(x))


def test_stages_are_freed_one_after_another() -> None:
    keras.utils.set_random_seed(0)
    model = tiny_net()
    model.compile(Momentum(0.01, weight_decay=1e-4), "sparse_categorical_crossentropy")
    images, labels = np.random.default_rng(0).normal(size=(8, 3)), np.arange(8) % 2
    moved = Moved()
    callbacks = [Unfreeze(1, 1), moved]
    model.fit(images, labels, batch_size=4, epochs=5, callbacks=callbacks, verbose=0)
    assert moved.epochs == [
        ["classifier"],
        ["stage3", "classifier"],
        ["stage2", "stage3", "classifier"],
        ["stage1", "stage2", "stage3", "classifier"],
        [*STAGES, "classifier"],
    ]
    moved.epochs.clear()
    callbacks = [Unfreeze(1, 1), moved, StopAtStep(11)]
    model.fit(images, labels, 4, epochs=3, initial_epoch=2, callbacks=callbacks, verbose=0)
    assert moved.epochs == [["stage2", "stage3", "classifier"]]
    assert int(model.optimizer.iterations) == 11
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet20", STAGES),
        ("googlenet", ["conv1", "conv2", "inception_3", "inception_4", "inception_5"]),
    ],
)
def test_the_stages_of_our_nets_are_found(name: str, stages: list[str]) -> None:
    assert list(find_stages(build(name, input_shape=(32, 32, 3), classes=2))) == stages


def test_the_last_normalisation_of_a_preactivation_network_is_frozen_with_the_last_stage() -> None:
    model = build("resnet18_v2", (32, 32, 3), 2)
    stages = find_stages(model)
    assert list(stages) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert model.get_layer("final_bn") in stages["stage4"]
    found = [layer for layers in stages.values() for layer in layers]
    assert {layer.name for layer in model.layers if layer.weights and layer not in found} == {
        "logits"
    }
