"""`optimizer.name` selects an optimizer, and `optimizer.arguments` reach it."""

import tomllib
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cnns.optimizers import LARS, Momentum
from keras_cnns.recipes import (
    Recipe,
    RecipeError,
    format_recipe,
    load_recipe,
    load_run_recipe,
    parse_recipe,
)
from keras_cnns.recipes.documentation import format_documented_recipe
from keras_cnns.training.callbacks.unfreeze import find_stages
from keras_cnns.training.model import build_model, compile_model
from keras_cnns.training.trainer import train


def optimizer_of(*overrides: str) -> keras.optimizers.Optimizer:
    recipe = load_recipe("digits-resnet20", ("data.image_size=16", "data.resize_shorter=16"))
    recipe = replace(recipe, optimizer=load_recipe("digits-resnet20", overrides).optimizer)
    model = build_model(recipe, 10)
    compile_model(model, recipe, 10)
    return model.optimizer


def test_the_name_selects_the_class() -> None:
    assert type(optimizer_of()) is Momentum
    assert type(optimizer_of("optimizer.name=lars")) is LARS
    sgd = optimizer_of("optimizer.name=SGD", "optimizer.weight_decay=0.0")
    assert type(sgd) is keras.optimizers.SGD
    assert (sgd.momentum, sgd.weight_decay) == (0.0, None)


def test_arguments_reach_the_class() -> None:
    adam = optimizer_of(
        "optimizer.name=adamw",
        "optimizer.arguments={beta_1 = 0.8, amsgrad = true}",
        "optimizer.weight_decay=0.01",
        "optimizer.weight_decay_on_norm_and_bias=false",
        "optimizer.ema_momentum=0.99",
    )
    assert type(adam) is keras.optimizers.AdamW
    assert (adam.beta_1, adam.amsgrad, adam.weight_decay) == (0.8, True, 0.01)
    assert adam.use_ema
    assert len(adam._exclude_from_weight_decay) == 2 * 19 + 1  # batch norm, the classifier's bias


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optimizer.name=adm",), "no optimizer 'adm'; did you mean 'adam'"),
        (
            ("optimizer.name=adam", "optimizer.arguments={beta = 0.8}"),
            r"optimizer.arguments do not fit Adam, .* arguments learning_rate, beta_1, .*beta",
        ),
        (
            ("optimizer.name=adam", "optimizer.arguments={learning_rate = 0.8}"),
            "optimizer.arguments.learning_rate is not allowed",
        ),
    ],
)
def test_a_wrong_optimizer_is_an_error(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer_of(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optimizer.arguments={beta_1 = 0.8}",), 'arguments cannot be used with the optimizer "'),
        (("optimizer.name=adam", "optimizer.momentum=0.5"), 'momentum is only for the optimizer "'),
        (("optimizer.name=adam", "optimizer.nesterov=true"), "nesterov is only for the optimizer"),
        (
            ("optimizer.name=lars", "optimizer.stage_learning_rate_factor=0.5"),
            "stage_learning_rate_factor is only for the optimizer",
        ),
        (("optimizer.stage_learning_rate_factor=1.5",), "stage_learning_rate_factor is 1.5"),
        (("optimizer.arguments=3",), "optimizer.arguments is 3"),
    ],
)
def test_a_recipe_with_keys_of_another_optimizer_is_an_error(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("digits-resnet20", overrides)


def test_arguments_are_written_and_read(tmp_path: Path) -> None:
    recipe = load_recipe(
        "digits-resnet20",
        ("optimizer.name=adam", "optimizer.arguments={beta_1 = 0.8, amsgrad = true}"),
    )
    assert parse_recipe(tomllib.loads(format_documented_recipe(recipe))) == recipe
    (tmp_path / "config.toml").write_text(format_recipe(recipe), "utf-8")
    assert load_run_recipe(tmp_path / "config.toml") == recipe


@pytest.mark.parametrize("name", ["resnet18", "resnet50_v2", "googlenet_bn"])
def test_earlier_stages_learn_more_slowly(name: str) -> None:
    """With ones as gradients, momentum 0 and no decay, a step subtracts the learning rate."""
    overrides = [
        f"model.name={name}",
        "model.aux_heads=" + str(name == "googlenet_bn").lower(),
        "data.image_size=32",
        "data.resize_shorter=32",
        "optimizer.learning_rate=1.0",
        "optimizer.schedule=constant",
        "optimizer.warmup_epochs=0.0",
        "optimizer.momentum=0.0",
        "optimizer.weight_decay=0.0",
        "optimizer.stage_learning_rate_factor=0.5",
    ]
    recipe = load_recipe("digits-resnet20", overrides)
    model = build_model(recipe, 10)
    compile_model(model, recipe, 10)
    variables = model.trainable_variables
    before = [np.array(variable) for variable in variables]
    model.optimizer.apply([np.ones(variable.shape, "float32") for variable in variables], variables)
    stages = {
        variable.path: distance
        for distance, layers in enumerate(reversed(find_stages(model).values()), start=1)
        for layer in layers
        for variable in layer.trainable_variables
    }
    assert len(stages) < len(variables)  # the classifiers belong to no stage
    for variable, old in zip(variables, before, strict=True):
        step = 0.5 ** stages.get(variable.path, 0)
        np.testing.assert_allclose(old - np.array(variable), step, atol=1e-5, err_msg=variable.path)


@pytest.mark.soak
def test_a_variation_with_adam_trains(quick_recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(
        quick_recipe,
        optimizer=replace(quick_recipe.optimizer, name="adam", arguments={"beta_1": 0.8}),
        model=replace(
            quick_recipe.model, activation="tanh", batch_normalization=False, shortcut="none"
        ),
    )
    run = train(recipe, tmp_path / "run")
    assert run.recipe == recipe
    model = keras.saving.load_model(run.path / "model.keras")
    assert not any("bn" in variable.path for variable in model.variables)
