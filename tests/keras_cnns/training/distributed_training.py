"""Train in a process of its own, and write the loss of each step; see test_distribution.py.

Arguments: the run directory, a JSON file for the losses, a factor for the first kernel of the
model, the values that differ from the recipe separated by semicolons, and the options of
`keras-cnns train` for several devices.
"""

import json
from pathlib import Path
from typing import Any

import keras
import typer

from keras_cnns.commands.distribution import (
    ConnectSeconds,
    Coordinator,
    Devices,
    Processes,
    ProcessId,
    choose,
)
from keras_cnns.recipes import load_recipe


class Losses(keras.callbacks.Callback):
    """Record the running mean of the loss, and the validation's loss; a checkpoint holds both."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.means: list[tuple[int, float]] = []  # steps of the epoch before this one, and mean
        self.validation: list[float] = []
        self._factor = factor

    def of_steps(self, count: int, batch_size: int) -> list[float]:
        """Return the loss of each step, for `count` images in an epoch."""
        losses, total = [], 0.0
        for index, mean in self.means:
            before = index * batch_size
            after = min(before + batch_size, count)
            total = total if index else 0.0
            losses.append((mean * after - total) / (after - before))
            total = mean * after
        return losses

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        kernel = self.model.trainable_variables[0]
        kernel.assign(self._factor * keras.ops.convert_to_numpy(kernel))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = int(self.params["steps"])
        self.means.append((len(self.means) % steps, float((logs or {})["loss"])))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.validation.append(float((logs or {})["val_loss"]))


def main(
    run: Path,
    to: Path,
    factor: float,
    changes: str,
    devices: Devices = None,
    coordinator: Coordinator = None,
    process_id: ProcessId = None,
    processes: Processes = None,
    connect_seconds: ConnectSeconds = None,
) -> None:
    recipe = load_recipe("digits-resnet20", changes.split(";"))
    options = (devices, coordinator, process_id, processes, connect_seconds)
    distributed = choose(recipe, *options, excluded={})
    from keras_cnns.data import Splits
    from keras_cnns.training import train

    losses = Losses(factor)
    with distributed() as distribution:
        train(recipe, run, checkpoint_steps=3, callbacks=[losses], distribution=distribution)
        if distribution.is_first:
            count = Splits(recipe.data).open("train", batch_size=1).num_examples
            result = {
                "steps": losses.of_steps(count, recipe.training.batch_size),
                "validation": losses.validation,
            }
            to.write_text(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
