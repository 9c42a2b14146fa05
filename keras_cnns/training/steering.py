"""The callbacks that change the course of a training, as its recipe describes it."""

import keras

from keras_cnns.recipes import Recipe
from keras_cnns.training.callbacks import AverageWeights, StopAtStep, Unfreeze


def make_steering(recipe: Recipe) -> list[keras.callbacks.Callback]:
    """Return the callbacks, in the order of their calls; they precede those that save."""
    optimizer = recipe.optimizer
    callbacks: list[keras.callbacks.Callback] = []
    if recipe.model.frozen_epochs:
        callbacks.append(Unfreeze(recipe.model.frozen_epochs, recipe.model.unfreeze_epochs))
    if optimizer.ema_momentum:
        callbacks.append(AverageWeights())
    if recipe.training.max_steps:
        callbacks.append(StopAtStep(recipe.training.max_steps))
    return callbacks
