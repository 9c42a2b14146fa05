"""What changes the course of a training, as its recipe says."""

import keras

from keras_cnns.recipes import Recipe
from keras_cnns.training.callbacks import AverageWeights, HoldRate, StopAtStep, Unfreeze
from keras_cnns.training.compiling import accuracy_key


def make_steering(recipe: Recipe, model: keras.Model) -> list[keras.callbacks.Callback]:
    """Return the callbacks, in the order of their calls; they stand before those that save."""
    optimizer = recipe.optimizer
    callbacks: list[keras.callbacks.Callback] = []
    if recipe.model.frozen_epochs:
        callbacks.append(Unfreeze(recipe.model.frozen_epochs, recipe.model.unfreeze_epochs))
    if optimizer.hold_rate:
        callbacks.append(HoldRate(optimizer.hold_until_error, accuracy_key(model)))
    if optimizer.average_decay:
        callbacks.append(AverageWeights())
    if recipe.training.steps:
        callbacks.append(StopAtStep(recipe.training.steps))
    return callbacks
