"""Recipes are read, changed by overrides, and rejected with an error that helps."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from keras_cnns.models import MODELS
from keras_cnns.recipes import (
    RecipeError,
    format_recipe,
    list_recipes,
    load_recipe,
    load_run_recipe,
    parse_recipe,
)
from keras_cnns.recipes.renamed_keys import RENAMED_KEYS


@pytest.mark.parametrize("name", list_recipes())
def test_built_in_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.name in MODELS
    assert parse_recipe(tomllib.loads(format_recipe(recipe))) == recipe


def test_overrides_are_toml_values_or_bare_words() -> None:
    recipe = load_recipe(
        "digits-resnet20",
        [
            "optimizer.learning_rate=0.05",
            "training.epochs = 3",
            "data.train_split=train[:50%]",
            "optimizer.nesterov=true",
            "data.mean=[12.5]",
        ],
    )
    assert recipe.optimizer.learning_rate == 0.05
    assert recipe.training.epochs == 3
    assert recipe.data.train_split == "train[:50%]"
    assert recipe.optimizer.nesterov is True
    assert recipe.data.mean == (12.5,)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lerning_rate=1", "unknown key optimizer.lerning_rate; did you mean 'learning"),
        ("optimiser.momentum=0.9", "unknown key optimiser; did you mean 'optimizer'?"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate is -1: input should be greater"),
        ("optimizer.learning_rate=nan", "should be a finite number"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate is 'fast'"),
        ("optimizer.momentum=1.0", "optimizer.momentum is 1.0: input should be less than 1"),
        ("optimizer.schedule=stairs", "'one_cycle' or 'exponential'"),
        ("optimizer.schedule=step", "needs decay_at_epochs or decay_at_steps"),
        ("optimizer.decay_at_epochs=[30, 10]", "decay_at_epochs must be in ascending order; it is"),
        (
            "optimizer.constant_warmup_steps=9",
            "constant_warmup_steps and constant_warmup_learning_rate must both be above 0",
        ),
        ("model.frozen_epochs=1", "frozen_epochs needs weights"),
        ("data.name=folder", 'name = "folder" and name = "idx" need a path'),
        ("data.path=caf\udce9", r"data.path is 'caf\udce9', which is not UTF-8; rename"),
        ("data.path=photos", 'name = "folder" and name = "idx" need a path'),
        ("augmentation.mixup=0.2", "unknown key augmentation.mixup; did you mean 'mixup_alpha'"),
        ("training.epochs=2.5", "training.epochs is 2.5: input should be a valid integer"),
        ("training.epochs=0", "greater than or equal to 1"),
        ("training.seed=true", "training.seed is True"),
        ("data.channels=2", "data.channels is 2: input should be 1 or 3"),
        ("data.mean=[1.0, 2.0]", "mean has 2 values for 1 channels"),
        ("data.std=[0.0]", "data.std[0] is 0.0: input should be greater than 0"),
        ("data.std=[]", "std has 0 values for 1 channels"),
        ("data.folds=1", "folds must be at least 2"),
        (
            "optimizer.decay_at_epochs=[30.0, -3.0]",
            "optimizer.decay_at_epochs[1] is -3.0: input should be greater than 0",
        ),
        (
            "optimizer.decay_at_steps=[0]",
            "optimizer.decay_at_steps[0] is 0: input should be greater than or equal to 1",
        ),
        ("data.image_size=64", "resize_shorter is 32; it must be at least image_size, 64"),
        ("optimizer=3", "does not have the form section.key=value"),
        ("learning_rate=3", "does not have the form section.key=value"),
        (
            "training.early_stopping_patience=5",  # the recipe's schedule is a cosine
            'early_stopping_patience is 5 and optimizer.schedule is "cosine", which lowers',
        ),
        ("class_balance.weights=balanced", "should be 'none', 'inverse' or 'effective_number'"),
        ("class_balance.focal_gamma=-1", "class_balance.focal_gamma is -1"),
        ("training.multi_label=true", "training.multi_label: every image has exactly one class"),
        (
            "training.loss=binary_crossentropy",
            "exactly one class, and the networks end",
        ),
        ("training.loss=focal", "there is no key training.loss: the loss is the cross-entropy"),
        ("data.tta=true", "data.tta: test-time augmentation is not supported"),
    ],
)
def test_the_error_of_an_override_names_the_key_the_value_and_what_is_allowed(
    override: str, message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("digits-resnet20", [override])
    assert message in str(error.value)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "one_cycle"])
def test_early_stopping_needs_a_schedule_without_a_fixed_end(schedule: str) -> None:
    patience, chosen = "training.early_stopping_patience=3", f"optimizer.schedule={schedule}"
    with pytest.raises(RecipeError, match="early stopping would skip") as error:
        load_recipe("digits-resnet20", [patience, chosen])
    assert not str(error.value).startswith(":")
    for other in ("constant", "exponential"):
        assert load_recipe("digits-resnet20", [patience, f"optimizer.schedule={other}"])


def test_classes_are_balanced_once() -> None:
    with pytest.raises(RecipeError, match="would balance the classes twice"):
        load_recipe(
            "digits-resnet20",
            ["class_balance.weights=inverse", "class_balance.balanced_sampling=true"],
        )


def test_files_are_read_or_rejected(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(format_recipe(load_recipe("digits-resnet20")))
    assert load_recipe(path) == load_recipe("digits-resnet20")
    path.write_text("[model\n")
    with pytest.raises(RecipeError, match=r"mine\.toml: .*line 1"):
        load_recipe(path)
    path.write_text("[model]\nname = 'resnet20'\n")
    with pytest.raises(RecipeError, match="data is missing; optimizer is missing"):
        load_recipe(path)
    path.write_text("base = 'digits-resnet20'\n[training]\nepochs = 3\n")
    assert load_recipe(path) == load_recipe("digits-resnet20", ["training.epochs=3"])
    path.write_bytes(b"\xef\xbb\xbfbase = 'digits-resnet20'\r\n[training]\r\nepochs = 3\r\n")
    assert load_recipe(path) == load_recipe("digits-resnet20", ["training.epochs=3"])
    assert load_run_recipe(path) == load_recipe(path)
    path.write_text("base = 'digits-resnet20'\n", "utf-16")
    with pytest.raises(RecipeError, match=r"mine\.toml is in UTF-16; save it as UTF-8"):
        load_recipe(path)
    path.write_text("base = 'mine'\n")
    with pytest.raises(
        RecipeError, match="base is 'mine'; it must be the name of a built-in recipe"
    ):
        load_recipe(path)
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(RecipeError, match="did you mean 'digits-resnet20'"):
        load_recipe("digits-resnet2")


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_an_old_key_is_rejected_with_the_name_of_the_new_one(old: str) -> None:
    with pytest.raises(RecipeError, match=rf"{old} was (renamed to|replaced by) ") as error:
        load_recipe("digits-resnet20", [f"{old}=1"])
    assert RENAMED_KEYS[old].key in str(error.value)


@pytest.mark.parametrize("name", list_recipes())
def test_the_run_of_an_earlier_version_is_read(name: str, tmp_path: Path) -> None:
    """Every key that was only renamed has its old name in the file."""
    recipe = load_recipe(name)
    values = tomllib.loads(format_recipe(recipe))
    for old, row in RENAMED_KEYS.items():
        section, _, key = row.key.partition(".")
        if not row.advice:
            values[section][old.partition(".")[2]] = values[section].pop(key)
    (tmp_path / "config.toml").write_text(tomli_w.dumps(values))
    assert load_run_recipe(tmp_path / "config.toml") == recipe
    with pytest.raises(RecipeError, match=r"data\.samples was renamed to data\.num_examples"):
        load_recipe(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("held", "warmup"), [("hold_rate = 0.0", (0, 0.0)), ("hold_rate = 0.01", (400, 0.01))]
)
def test_a_held_learning_rate_of_an_earlier_version_is_read_as_a_constant_warmup(
    held: str, warmup: tuple[int, float], tmp_path: Path
) -> None:
    recipe = load_recipe("cifar10-resnet20")
    lines = format_recipe(recipe).splitlines()
    old = [line for line in lines if not line.startswith("constant_warmup_")]
    old.insert(old.index("[optimizer]") + 1, f"{held}\nhold_until_error = 0.8")
    (tmp_path / "config.toml").write_text("\n".join(old))
    read = load_run_recipe(tmp_path / "config.toml")
    optimizer = read.optimizer
    assert (optimizer.constant_warmup_steps, optimizer.constant_warmup_learning_rate) == warmup
    assert replace(recipe, optimizer=optimizer) == read
    with pytest.raises(RecipeError, match=r"hold_until_error was replaced by optimizer\.constant"):
        load_recipe(tmp_path / "config.toml")
