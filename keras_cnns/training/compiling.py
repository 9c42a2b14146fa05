"""From a recipe to a compiled net."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_cnns.models import build
from keras_cnns.optimizers import Momentum
from keras_cnns.recipes import Recipe
from keras_cnns.training.schedules import make_schedule

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Have the layers that are made meanwhile compute in `float32` or `bfloat16`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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
    with precision(recipe.training.precision):
        model = build(
            recipe.model.name,
            input_shape=shape,
            classes=classes,
            aux_heads=recipe.model.aux_heads,
            input_tensor=normalised,
        )
    if recipe.model.weights:
        body = build(
            recipe.model.name, input_shape=shape, include_top=False, weights=recipe.model.weights
        )
        for layer in body.layers:
            if layer.weights:
                model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compile with the recipe's optimizer; auxiliary losses count with their weight."""
    config = recipe.optimizer
    optimizer = Momentum(
        learning_rate=make_schedule(recipe, steps_per_epoch),
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        exclude_from_weight_decay=()
        if config.weight_decay_on_norm_and_bias
        else ("norm_and_bias",),
        learning_rate_multipliers={}
        if config.bias_learning_rate_multiplier == 1
        else {"bias": config.bias_learning_rate_multiplier},
        use_ema=bool(config.ema_momentum),
        ema_momentum=config.ema_momentum or 0.99,
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


def for_outputs(model: keras.Model, dataset: Any) -> Any:
    """Give every output of a model its own copy of the labels."""
    if not isinstance(model.output, dict):
        return dataset
    names = list(model.output)
    return dataset.map(lambda images, labels: (images, dict.fromkeys(names, labels)))


def accuracy_key(model: keras.Model) -> str:
    """Return the logs' name for the main output's accuracy."""
    return "main_accuracy" if isinstance(model.output, dict) else "accuracy"
