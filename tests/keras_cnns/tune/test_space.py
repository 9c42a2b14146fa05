"""The search space: its defaults, its changes, and what is refused."""

import re

import pytest

from keras_cnns.recipes import load_recipe
from keras_cnns.tune.space import (
    LEARNING_RATE,
    STRENGTH,
    Choice,
    Range,
    apply_values,
    make_space,
    recipe_values,
    short_names,
)

RECIPE = load_recipe("digits-resnet20")


def test_the_default_space_lies_around_the_recipe() -> None:
    space = make_space(RECIPE)
    assert list(space) == [
        "optimizer.learning_rate",
        "optimizer.weight_decay",
        "augmentation.strength",
        "augmentation.label_smoothing",
        "training.batch_size",
    ]
    rate = space[LEARNING_RATE]
    assert isinstance(rate, Range)
    assert rate.log
    assert [rate.low, rate.high] == pytest.approx([0.02, 0.5])
    assert space["training.batch_size"] == Choice((16, 32, 64))
    own = recipe_values(RECIPE, space)
    assert all(values.contains(own[key]) for key, values in space.items())
    assert apply_values(RECIPE, own) == RECIPE


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        (
            "optimizer.learning_rate=0.01:1:log",
            "optimizer.learning_rate",
            Range(0.01, 1, log=True),
        ),
        ("augmentation.pad_and_crop=0:4", "augmentation.pad_and_crop", Range(0, 4, whole=True)),
        ("training.batch_size=16,64", "training.batch_size", Choice((16, 64))),
        ("model.name=resnet20,resnet32", "model.name", Choice(("resnet20", "resnet32"))),
        ("optimizer.nesterov=true,false", "optimizer.nesterov", Choice((True, False))),
        (f"{STRENGTH}=none,light", STRENGTH, Choice(("none", "light"))),
    ],
)
def test_a_range_or_a_list_replaces_the_default(
    text: str, key: str, values: Range | Choice
) -> None:
    assert make_space(RECIPE, [text])[key] == values


def test_the_recipes_own_value_removes_a_key() -> None:
    assert "training.batch_size" not in make_space(RECIPE, ["training.batch_size=32"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate=0.1:1", "did you mean 'optimizer.learning_rate'"),
        ("optimizer.learning_rat=0.1:1", "did you mean 'optimizer.learning_rate'"),
        ("nonsense", "does not have the form KEY=LOW:HIGH"),
        ("=1:2", "does not have the form"),
        ("optimizer.learning_rate=", "does not have the form"),
        ("optimizer.learning_rate=1:0.1", "LOW must be below HIGH"),
        ("optimizer.learning_rate=1:1", "LOW must be below HIGH"),
        ("optimizer.learning_rate=0.1:inf", "finite"),
        ("optimizer.learning_rate=nan:1", "finite"),
        ("optimizer.learning_rate=a:b", "is not a number"),
        ("optimizer.learning_rate=-1:1", "optimizer.learning_rate is -1.0"),
        ("optimizer.weight_decay=0:1:log", "must begin above 0"),
        ("optimizer.momentum=0.5:1.5", "optimizer.momentum is 1.5"),
        ("training.batch_size=1.5:4", "needs whole numbers"),
        ("training.batch_size=0,32", "training.batch_size is 0"),
        ("training.batch_size=32,32", "different numbers"),
        ("training.batch_size=16,,32", "different numbers"),
        ("training.batch_size=" + ",".join(map(str, range(1, 99))), "at most 50"),
        ("training.batch_size=64", "--set training.batch_size=64"),
        ("training.batch_size=32:64:log:log", "a range is LOW:HIGH or LOW:HIGH:log"),
        ("training.epochs=1:9", "the same in every trial"),
        ("training.seed=1,2", "the same in every trial"),
        ("data.test_split=test,train", "the same in every trial"),
        ("augmentation.strength=none,hugh", "the levels are recipe, none"),
        ("optimizer.__class__=1:2", "unknown key"),
        ("optimizer.arguments=1,2", "unknown key"),
    ],
)
def test_a_wrong_search_says_what_is_right(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_space(RECIPE, [text])


def test_values_that_exclude_each_other_are_refused_before_the_search() -> None:
    searches = ["training.early_stopping_patience=0,3", "optimizer.schedule=constant,cosine"]
    recipe = load_recipe("digits-resnet20", ["optimizer.schedule=constant"])
    for each in searches:
        make_space(recipe, [each])
    message = "early_stopping_patience = 3 and optimizer.schedule = cosine exclude each other"
    with pytest.raises(ValueError, match=message):
        make_space(recipe, searches)


def test_keys_with_the_same_name_keep_their_section() -> None:
    names = short_names(["model.name", "optimizer.name", "optimizer.momentum"])
    assert list(names.values()) == ["model.name", "optimizer.name", "momentum"]


def test_class_balance_can_be_searched() -> None:
    space = make_space(RECIPE, ["class_balance.focal_gamma=0:3"])
    values = {"class_balance.focal_gamma": 1.5}
    assert space["class_balance.focal_gamma"] == Range(0, 3)
    assert apply_values(RECIPE, values).class_balance.focal_gamma == 1.5


def test_with_a_number_of_steps_the_batch_size_is_not_searched() -> None:
    recipe = load_recipe("digits-resnet20", ["training.max_steps=100"])
    assert "training.batch_size" not in make_space(recipe)


def test_a_key_is_searched_once() -> None:
    with pytest.raises(ValueError, match=r"names optimizer\.momentum twice"):
        make_space(RECIPE, ["optimizer.momentum=0:0.9", "optimizer.momentum=0.1:0.9"])


def test_the_learning_rate_follows_the_batch_size() -> None:
    values = {LEARNING_RATE: 0.2, "training.batch_size": 64}
    assert apply_values(RECIPE, values).optimizer.learning_rate == pytest.approx(0.4)
    scaled = load_recipe("digits-resnet20", ["optimizer.reference_batch_size=32"])
    assert apply_values(scaled, values).optimizer.learning_rate == pytest.approx(0.2)


def test_the_levels_of_augmentation_keep_mirroring() -> None:
    recipe = load_recipe("digits-resnet20", ["augmentation.horizontal_flip=true"])
    strong = apply_values(recipe, {STRENGTH: "strong"}).augmentation
    assert (strong.pad_and_crop, strong.rand_augment_num_ops, strong.horizontal_flip) == (
        4,
        2,
        True,
    )
    assert apply_values(recipe, {STRENGTH: "none"}).augmentation.pad_and_crop == 0
