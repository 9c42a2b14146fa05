"""Run the learning-rate range test of a recipe."""

from typing import Any

import keras

from keras_cnns.data import Splits
from keras_cnns.recipes import Recipe
from keras_cnns.training.callbacks.progress import Progress
from keras_cnns.training.callbacks.range_test import RangeTest
from keras_cnns.training.compiling import build_model, compile_model, for_outputs
from keras_cnns.training.initial_weights import find_initial_weights


class _TestProgress(Progress):
    """Show the steps of a range test, whose metrics say nothing about a trained model."""

    def __init__(self, test: RangeTest) -> None:
        super().__init__()
        self.test = test

    def title(self) -> str:
        return "learning-rate range test"

    def describe(self, logs: dict[str, Any]) -> str:
        if not self.test.rates:  # the first loss was not finite
            return "no finite loss"
        return f"learning rate {self.test.rates[-1]:.3g}, loss {self.test.losses[-1]:.4g}"


def find_rate(recipe: Recipe, steps: int = 100) -> RangeTest:
    """Train a recipe's model for some steps with a rising learning rate, and return the test.

    Args:
        recipe: the model, its data and optimizer; the learning rate and its schedule are not used.
        steps: the number of training steps.

    Raises:
        ValueError: there is no such model or data set, or its training split is missing or empty.
    """
    find_initial_weights(recipe)
    keras.utils.set_random_seed(recipe.training.seed)
    splits = Splits(recipe.data)
    training = splits.open(
        recipe.data.train_split,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        augmentation=recipe.augmentation,
        check_first=True,
    )
    model = build_model(recipe, len(splits.labels))
    compile_model(model, recipe, training.steps)
    test = RangeTest(steps=steps)
    model.fit(
        for_outputs(model, training.steps_from(0)),
        steps_per_epoch=steps,
        shuffle=False,  # the split's own order is random
        verbose=0,
        callbacks=[test, _TestProgress(test)],
    )
    return test
