"""Build and compile the model of a recipe."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_cnns.losses import FocalCrossentropy
from keras_cnns.models import build
from keras_cnns.models.heads import normalised_input
from keras_cnns.optimizers import LARS, Momentum
from keras_cnns.recipes import ModelConfig, OptimizerConfig, Recipe
from keras_cnns.suggestions import find
from keras_cnns.training.callbacks.unfreeze import AFTER_LAST_STAGE, find_stages
from keras_cnns.training.schedules import make_schedule

# Name in lower case -> class, for `optimizer.name`.
_OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "lars": LARS,
    **{
        name.lower(): kind
        for name, kind in vars(keras.optimizers).items()
        if isinstance(kind, type)
        and issubclass(kind, keras.optimizers.Optimizer)
        and kind is not keras.optimizers.Optimizer
        and name != "LossScaleOptimizer"  # excluded, since it wraps another optimizer
    },
}
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
            **_variation(recipe.model),
        )
    if recipe.model.weights:
        body = build(
            recipe.model.name,
            input_shape=shape,
            include_top=False,
            weights=recipe.model.weights,
            **_variation(recipe.model),
        )
        for layer in body.layers:
            if layer.weights:
                model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def _variation(config: ModelConfig) -> dict[str, Any]:
    """Return the options of `build` with which a recipe may deviate from the network's paper."""
    return {
        "shortcut": config.shortcut or None,
        "inception": config.inception,
        "inception_branches": config.inception_branches,
        "width": config.width,
        "small_stem": config.small_stem,
        "activation": config.activation,
        "kernel_initializer": config.kernel_initializer or None,
        "batch_normalization": config.batch_normalization,
        "batch_norm_noise": config.batch_norm_noise,
    }


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compile a model with the recipe's optimizer, losses and metrics.

    The loss is the loss of the main output plus the auxiliary losses times their weight.
    """
    optimizer = _make_optimizer(recipe.optimizer, make_schedule(recipe, steps_per_epoch), model)
    soft = recipe.soft_targets
    loss: Any = "categorical_crossentropy" if soft else "sparse_categorical_crossentropy"
    if recipe.class_balance.changes_loss:
        loss = FocalCrossentropy(recipe.class_balance.focal_gamma)
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


def _make_optimizer(
    config: OptimizerConfig, learning_rate: Any, model: keras.Model
) -> keras.optimizers.Optimizer:
    """Return the recipe's optimizer.

    Raises:
        ValueError: there is no such optimizer, or it does not accept an argument.
    """
    common = {
        "learning_rate": learning_rate,
        "use_ema": bool(config.ema_momentum),
        "ema_momentum": config.ema_momentum or 0.99,
    }
    if config.name == "momentum":
        return Momentum(
            **common,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            exclude_from_weight_decay=(
                () if config.weight_decay_on_norm_and_bias else ("norm_and_bias",)
            ),
            learning_rate_multipliers=_learning_rate_multipliers(config, model),
        )
    kind = find(config.name.lower(), _OPTIMIZERS, "optimizer")
    for argument in config.arguments:
        if argument in (*common, "weight_decay"):
            raise ValueError(
                f"optimizer.arguments.{argument} is not allowed: the recipe's section [optimizer] "
                "has a key for it"
            )
    try:
        optimizer = kind(**common, **config.arguments, weight_decay=config.weight_decay or None)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"optimizer.arguments do not fit {kind.__name__}, which has the arguments "
            f"{', '.join(inspect.signature(kind).parameters)}: {error}"
        ) from None
    if not config.weight_decay_on_norm_and_bias:
        names = [
            variable for variable in model.trainable_variables if len(variable.shape) <= 1
        ]  # biases, and the scales and offsets of normalisation layers
        optimizer.exclude_from_weight_decay(var_list=names)
    return optimizer


def _learning_rate_multipliers(config: OptimizerConfig, model: keras.Model) -> dict[str, float]:
    """Return a dict: a pattern of paths -> a factor of the learning rate.

    The factor applies to each variable whose path matches the pattern.
    """
    multipliers = {}
    if config.bias_learning_rate_multiplier != 1:
        multipliers["bias"] = config.bias_learning_rate_multiplier
    if config.stage_learning_rate_factor != 1:
        with_weights = {
            name: layers
            for name, layers in find_stages(model).items()
            if any(layer.trainable_variables for layer in layers)
        }
        for distance, (name, layers) in enumerate(reversed(with_weights.items()), start=1):
            # The pattern for "conv1" must not match a layer "conv10".
            multipliers[rf"^{name}(?!\d)"] = config.stage_learning_rate_factor**distance
            if any(layer.name.startswith(AFTER_LAST_STAGE) for layer in layers):
                multipliers[f"^{AFTER_LAST_STAGE}"] = config.stage_learning_rate_factor**distance
    return multipliers


def for_outputs(model: keras.Model, dataset: Any) -> Any:
    """Return the batches; if the model has several outputs, repeat the labels for each output."""
    if not isinstance(model.output, dict):
        return dataset
    names = list(model.output)
    return dataset.map(lambda images, labels, *rest: (images, dict.fromkeys(names, labels), *rest))


def accuracy_key(model: keras.Model) -> str:
    """Return the name of the main output's accuracy in Keras' logs."""
    return "main_accuracy" if isinstance(model.output, dict) else "accuracy"


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """Make the layers that are created in the block compute in `float32` or `bfloat16`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
