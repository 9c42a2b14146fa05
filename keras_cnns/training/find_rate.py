"""The range test of a recipe: which rate to give it."""

import keras

from keras_cnns.data import open_split, read_labels
from keras_cnns.recipes import Recipe
from keras_cnns.training.callbacks.progress import Progress
from keras_cnns.training.callbacks.range_test import RangeTest
from keras_cnns.training.compiling import build_model, compile_model, for_outputs


def find_rate(recipe: Recipe, steps: int = 100) -> RangeTest:
    """Train a recipe's net for some steps while the rate rises, and return what was seen.

    Args:
        recipe: its rate and schedule are not used.
        steps: training steps.

    Raises:
        ValueError: there is no such model, data set or split.
    """
    keras.utils.set_random_seed(recipe.training.seed)
    labels = read_labels(recipe.data)
    training = open_split(
        recipe.data,
        recipe.data.train_split,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        augmentation=recipe.augmentation,
    )
    model = build_model(recipe, len(labels))
    compile_model(model, recipe, training.steps)
    test = RangeTest(steps=steps)
    model.fit(
        for_outputs(model, training.steps_from(0)),
        steps_per_epoch=steps,
        shuffle=False,  # the data set shuffles itself
        verbose=0,
        callbacks=[Progress(), test],
    )
    return test
