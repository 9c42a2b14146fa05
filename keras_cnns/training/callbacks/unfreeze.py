"""Fine-tuning: train the new classifier first, then the stages below it."""

import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_cnns.optimizers.base import PathOptimizer

# The beginning of a layer's name is its stage. GoogLeNet's modules 4a to 4e, for example, are one
# stage.
_STAGE = re.compile(r"(stem|stage\d+|conv\d+|inception_\d+)")
AFTER_LAST_STAGE = "final_"  # batch normalisation and ReLU of the networks with preactivation


class Unfreeze(keras.callbacks.Callback):
    """Freeze all stages of a model, and unfreeze them one after another from the last to the first.

    The weights and batch-norm statistics of a frozen stage do not change. Layers that belong to no
    stage, such as the classifiers, are always trained. On JAX, Keras' own optimizers cannot train
    only a part of their variables, so the optimizer must be one of `keras_cnns.optimizers`.

    Args:
        frozen_epochs: number of epochs in which every stage is frozen.
        unfreeze_epochs: after `frozen_epochs`, the number of epochs between unfreezing one stage
            and the next; with 0, all stages are unfrozen at the same time.

    Raises:
        ValueError: on JAX, the optimizer is not one of `keras_cnns.optimizers`.
    """

    def __init__(self, frozen_epochs: int, unfreeze_epochs: int = 0) -> None:
        super().__init__()
        self.frozen_epochs, self.unfreeze_epochs = frozen_epochs, unfreeze_epochs

    def get_state(self) -> dict[str, Any]:
        """Return no state, because the epoch determines which stages are frozen."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Do nothing."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the stages, and build the optimizer on all weights."""
        optimizer = self.model.optimizer
        if keras.backend.backend() == "jax" and not isinstance(optimizer, PathOptimizer):
            raise ValueError(
                f"the optimizer is {type(optimizer).__name__}; on JAX, Unfreeze needs an optimizer "
                "of keras_cnns.optimizers, such as Momentum, without loss scaling (use "
                "mixed_bfloat16 instead of mixed_float16)"
            )
        self.stages = find_stages(self.model)
        self.frozen: Sequence[str] | None = None
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Freeze and unfreeze the stages for this epoch."""
        since = epoch - self.frozen_epochs
        unfrozen = len(self.stages)
        if since < 0:
            unfrozen = 0
        elif self.unfreeze_epochs:
            unfrozen = min(1 + since // self.unfreeze_epochs, unfrozen)
        frozen = list(self.stages)[: len(self.stages) - unfrozen]
        if frozen == self.frozen:
            return
        self.frozen = frozen
        for name, layers in self.stages.items():
            for layer in layers:
                layer.trainable = name not in frozen
        self.model.make_train_function(force=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Unfreeze all stages."""
        for layers in self.stages.values():
            for layer in layers:
                layer.trainable = True


def find_stages(model: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """Return stage -> its layers, from the first stage to the last, for a model of this package."""
    stages: dict[str, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        if found := _STAGE.match(layer.name):
            stages.setdefault(found[1], []).append(layer)
        elif layer.name.startswith(AFTER_LAST_STAGE) and stages:
            list(stages.values())[-1].append(layer)
    return stages
