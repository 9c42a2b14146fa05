"""Build and compile the model of a recipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_cnns.models import build
from keras_cnns.models.heads import normalised_input
from keras_cnns.optimizers import Momentum
from keras_cnns.recipes import Recipe
from keras_cnns.training.schedules import make_schedule

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build_model(recipe: Recipe, classes: int) -> keras.Model:
    """Build the recipe's model: pixels 0 to 255 [N, H, W, C] -> probabilities [N, K]."""
    data = recipe.data
    shape = (data.image_size, data.image_size, data.channels)
    with _precision(recipe.training.precision):
        model = build(
            recipe.model.name,
            input_shape=shape,
            classes=classes,
            aux_heads=recipe.model.aux_heads,
            input_tensor=normalised_input(shape, data.mean, data.std),
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
    """Compile a model with the recipe's optimizer, losses and metrics.

    The loss is the sum of the main output's loss and the auxiliary losses times their weight.
    """
    config = recipe.optimizer
    excluded = () if config.weight_decay_on_norm_and_bias else ("norm_and_bias",)
    multiplier = config.bias_learning_rate_multiplier
    optimizer = Momentum(
        learning_rate=make_schedule(recipe, steps_per_epoch),
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        exclude_from_weight_decay=excluded,
        learning_rate_multipliers={} if multiplier == 1 else {"bias": multiplier},
        use_ema=bool(config.ema_momentum),
        ema_momentum=config.ema_momentum or 0.99,
    )
    soft = recipe.augmentation.soft_targets
    loss = "categorical_crossentropy" if soft else "sparse_categorical_crossentropy"
    accuracy = (
        keras.metrics.CategoricalAccuracy if soft else keras.metrics.SparseCategoricalAccuracy
    )("accuracy")
    outputs = model.output
    if isinstance(outputs, dict):
        weights = dict.fromkeys(outputs, recipe.training.aux_loss_weight) | {"main": 1.0}
        model.compile(
            optimizer,
            loss=dict.fromkeys(outputs, loss),
            loss_weights=weights,
            metrics={"main": [accuracy]},
        )
    else:
        model.compile(optimizer, loss=loss, metrics=[accuracy])


def for_outputs(model: keras.Model, dataset: Any) -> Any:
    """Give every output of a model its own copy of the labels."""
    if not isinstance(model.output, dict):
        return dataset
    names = list(model.output)
    return dataset.map(lambda images, labels: (images, dict.fromkeys(names, labels)))


def accuracy_key(model: keras.Model) -> str:
    """Return the name of the main output's accuracy in Keras' logs."""
    return "main_accuracy" if isinstance(model.output, dict) else "accuracy"


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """Let the layers that the block makes compute in `float32` or `bfloat16`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
