"""From a recipe to a compiled net."""

from typing import Any

import keras

from keras_cnns.models import build
from keras_cnns.optimizers import Momentum
from keras_cnns.recipes import Recipe


def build_model(recipe: Recipe, classes: int) -> keras.Model:
    """Build the recipe's net: pixels 0 to 255 [N, H, W, C] -> probabilities [N, K].

    The normalisation is the first layer, so that the saved model, its exports and the server take
    what a camera gives, and none of them can get it wrong.
    """
    data = recipe.data
    shape = (data.image_size, data.image_size, data.channels)
    images = keras.Input(shape, name="images")
    scale = [1 / std for std in data.std]
    offset = [-mean / std for mean, std in zip(data.mean, data.std, strict=True)]
    normalised = keras.layers.Rescaling(scale, offset, dtype="float32", name="normalise")(images)
    return build(
        recipe.model.name,
        input_shape=shape,
        classes=classes,
        aux_heads=recipe.model.aux_heads,
        input_tensor=normalised,
    )


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compile with the recipe's optimizer; auxiliary losses count with their weight."""
    optimizer = Momentum(
        learning_rate=make_schedule(recipe, steps_per_epoch),
        momentum=recipe.optimizer.momentum,
        nesterov=recipe.optimizer.nesterov,
        weight_decay=recipe.optimizer.weight_decay,
    )
    soft = recipe.augmentation.soft_targets
    loss = "categorical_crossentropy" if soft else "sparse_categorical_crossentropy"
    accuracy = (
        keras.metrics.CategoricalAccuracy if soft else keras.metrics.SparseCategoricalAccuracy
    )
    outputs = model.output
    if isinstance(outputs, dict):
        model.compile(
            optimizer,
            loss=dict.fromkeys(outputs, loss),
            loss_weights={
                name: 1.0 if name == "main" else recipe.training.aux_loss_weight for name in outputs
            },
            metrics={"main": [accuracy("accuracy")]},
        )
    else:
        model.compile(optimizer, loss=loss, metrics=[accuracy("accuracy")])


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> Any:
    """Return the learning rate: a constant, or a schedule over steps."""
    optimizer = recipe.optimizer
    if optimizer.schedule == "constant":
        return optimizer.learning_rate
    total = recipe.training.epochs * steps_per_epoch
    warmup = min(round(optimizer.warmup_epochs * steps_per_epoch), total - 1)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(optimizer.learning_rate, total)
    return keras.optimizers.schedules.CosineDecay(
        0.0, total - warmup, warmup_target=optimizer.learning_rate, warmup_steps=warmup
    )


def for_outputs(model: keras.Model, dataset: Any) -> Any:
    """Give every output of a model its own copy of the labels."""
    if not isinstance(model.output, dict):
        return dataset
    names = list(model.output)
    return dataset.map(lambda images, labels: (images, dict.fromkeys(names, labels)))


def accuracy_key(model: keras.Model) -> str:
    """Return the logs' name for the main output's accuracy."""
    return "main_accuracy" if isinstance(model.output, dict) else "accuracy"
