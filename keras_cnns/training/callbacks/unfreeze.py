"""Fine-tuning: first the new classifier, then the stages below it."""

import re
from collections.abc import Sequence
from typing import Any

import keras

# conv1 and conv2_reduce of GoogLeNet are one stage each, its modules 4a to 4e another.
STAGE = re.compile(r"(stem|stage\d+|conv\d+|inception_\d+)")


class Unfreeze(keras.callbacks.Callback):
    """Freeze all stages of a net, and free them again, the last first.

    A frozen stage's weights and batch-norm statistics stay as they are. What belongs to no stage,
    as the classifiers, always learns. TensorFlow's `fit` only: it asks for a new training function
    within its run.

    Args:
        frozen_epochs: for so many epochs every stage is frozen.
        unfreeze_epochs: after them a stage more is freed each so many; 0: all at once.
    """

    def __init__(self, frozen_epochs: int, unfreeze_epochs: int = 0) -> None:
        super().__init__()
        self.frozen_epochs, self.unfreeze_epochs = frozen_epochs, unfreeze_epochs

    def get_state(self) -> dict[str, Any]:
        """Return nothing: the epoch says which stages are frozen."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take nothing."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the stages, and have the optimizer know every weight."""
        self.stages = find_stages(self.model)
        self.frozen: Sequence[str] | None = None
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Freeze and free what the epoch asks for."""
        since = epoch - self.frozen_epochs
        freed = len(self.stages)
        if since < 0:
            freed = 0
        elif self.unfreeze_epochs:
            freed = min(1 + since // self.unfreeze_epochs, freed)
        frozen = list(self.stages)[: len(self.stages) - freed]
        if frozen == self.frozen:
            return
        self.frozen = frozen
        for name, layers in self.stages.items():
            for layer in layers:
                layer.trainable = name not in frozen
        self.model.make_train_function(force=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave all free."""
        for layers in self.stages.values():
            for layer in layers:
                layer.trainable = True


def find_stages(model: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """Return the layers of each stage of one of these nets, from the first stage to the last."""
    stages: dict[str, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        if found := STAGE.match(layer.name):
            stages.setdefault(found[1], []).append(layer)
    return stages
