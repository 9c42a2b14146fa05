"""Recipes: the built-in TOML files, their schema, and functions that read and write them."""

from keras_cnns.recipes.preprocessing import Preprocessing
from keras_cnns.recipes.schema import (
    AugmentationConfig,
    ClassBalanceConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    RecipeError,
    TrainingConfig,
    format_recipe,
    list_recipes,
    load_recipe,
    load_run_recipe,
    parse_overrides,
    parse_recipe,
    with_absolute_paths,
)
from keras_cnns.recipes.unsupported import MULTI_LABEL

__all__ = [
    "MULTI_LABEL",
    "AugmentationConfig",
    "ClassBalanceConfig",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Preprocessing",
    "Recipe",
    "RecipeError",
    "TrainingConfig",
    "format_recipe",
    "list_recipes",
    "load_recipe",
    "load_run_recipe",
    "parse_overrides",
    "parse_recipe",
    "with_absolute_paths",
]
