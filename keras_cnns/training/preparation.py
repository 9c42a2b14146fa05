"""Prepare a training: seed the generators, open the data, build and compile the model."""

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_cnns.data import Split, Splits
from keras_cnns.recipes import Recipe
from keras_cnns.training.distribution import Distribution
from keras_cnns.training.initial_weights import check_initial_weights
from keras_cnns.training.model import build_model, compile_model, for_outputs


@dataclass(frozen=True)
class Preparation:
    """The recipe, data and compiled model of a training."""

    recipe: Recipe
    splits: Splits
    training: Split
    model: keras.Model  # compiled
    distribution: Distribution

    def batches(self, step: int = 0) -> Any:
        """Return the endless training data from step `step` on, as `fit` needs it."""
        return for_outputs(self.model, self.training.steps_from(step))

    def probe(self) -> tuple[Any, Any]:
        """Return a batch of training images, the same in every call, and its targets."""
        batch: tuple[Any, Any] = next(iter(for_outputs(self.model, self.training.probe())))
        return batch

    def open_held_out(self) -> tuple[Split, Split]:
        """Return the validation split, with the targets that the loss needs, and the test split.

        A training calls this before its first step, so that a missing split is reported before the
        training instead of after the last epoch.

        Raises:
            ValueError: a split does not exist or is empty.
        """
        data, batch_size = self.recipe.data, self.recipe.training.batch_size
        one_hot = self.recipe.soft_targets
        return (
            self.splits.open(
                data.validation_split,
                batch_size=batch_size,
                one_hot=one_hot,
                check_first=True,
                part=self.distribution.part,
            ),
            self.splits.open(data.test_split, batch_size=batch_size, check_first=True),
        )


def prepare(
    recipe: Recipe, splits: Splits | None = None, distribution: Distribution | None = None
) -> Preparation:
    """Prepare a recipe's training.

    Args:
        recipe: the model, its data, and how to train it.
        splits: the splits of the recipe's data, if the caller has opened them. The caller must then
            also have called `check_initial_weights`.
        distribution: the devices of the training; by default one device.

    Raises:
        ValueError: there is no such model or data set, or its training split is missing or empty.
        WeightsError: the initial weights cannot be read or downloaded.
    """
    if splits is None:
        check_initial_weights(recipe)
        splits = Splits(recipe.data)
    distribution = distribution or Distribution()
    _make_reproducible(recipe.training.seed)
    training = splits.open(
        recipe.data.train_split,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        augmentation=recipe.augmentation,
        class_balance=recipe.class_balance,
        one_hot=recipe.soft_targets,
        check_first=True,
        part=distribution.part,
    )
    with distribution.scope():
        model = build_model(recipe, len(splits.labels))
        compile_model(model, recipe, training.steps)
    prepared = Preparation(recipe, splits, training, model, distribution)
    distribution.attach(model, prepared.batches)
    return prepared


def _make_reproducible(seed: int) -> None:
    """Seed all random generators; on a CPU, also make every operation deterministic."""
    keras.utils.set_random_seed(seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
