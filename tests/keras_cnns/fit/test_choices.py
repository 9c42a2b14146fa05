"""The choices for photos, as tables: facts and a budget in, values of a recipe out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keras_cnns.fit.choices import (
    Choices,
    choose_epochs,
    choose_input,
    choose_learning_rate,
    choose_precision,
    choose_training,
    published_weights,
    smaller_sizes,
)
from keras_cnns.fit.measurement import Measurement
from keras_cnns.fit.networks import Budget
from keras_cnns.fit.photos import SIZES, Photos

QUIET = Budget(seconds=800, cores=2, memory=16 * 2**30)
# The detail that images lose at each size: photographs, and images that were enlarged from 28
# pixels.
PHOTOGRAPHS = dict(zip(SIZES, (0.14, 0.11, 0.09, 0.07, 0.05, 0.04, 0.03), strict=True))
ENLARGED = dict(zip(SIZES, (0.014, 0.003, 0.0, 0.0, 0.0, 0.0, 0.0), strict=True))
MEASURED = Measurement(0.05, 76, 0.5, 100, 0.4)


def photos(
    sides: tuple[int, ...], lost: dict[int, float], *, grey: float = 0.0, train: int = 4800
) -> Photos:
    return Photos(
        root=Path("photos"),
        files=train,
        left_out=(),
        warnings=(),
        classes={"a": train // 2, "b": train // 2},
        splits={"train": train, "validation": 600, "test": 600},
        sides=sides,
        sample=(Path("a.png"),) * 300,
        grey=grey,
        lost_detail=lost,
    )


def chosen(
    facts: Photos, budget: Budget = QUIET, weights_model: str = "", **given: Any
) -> dict[str, Any]:
    choices = Choices({key.replace("__", "."): value for key, value in given.items()})
    choose_input(choices, facts, budget, weights_model=weights_model)
    choose_training(choices, facts, budget, pretrained=bool(weights_model))
    assert all(choices.reasons[key] for key in ("data.image_size", "data.channels", "model.name"))
    return choices.values


PHOTOS = photos((400,) * 9, PHOTOGRAPHS)


@pytest.mark.parametrize(
    ("facts", "minutes", "expected"),
    [
        # Small images keep their size, up to a multiple of 4; grey ones have one channel.
        (photos((28,) * 9, ENLARGED, grey=1.0), 15, (28, 1, "resnet")),
        (photos((30,) * 9, ENLARGED, grey=0.5), 15, (32, 3, "resnet")),
        # Enlarged ones need no more pixels than they have detail.
        (photos((28, 64, 96, 128, 160), ENLARGED, grey=1.0), 15, (32, 1, "resnet")),
        # Photographs: the size grows with the time, and 64 is the smallest.
        (photos((400,) * 9, PHOTOGRAPHS), 2, (64, 3, "resnet18")),
        (photos((400,) * 9, PHOTOGRAPHS), 60, (160, 3, "resnet18")),
        (photos((400,) * 9, PHOTOGRAPHS), 2000, (224, 3, "resnet34")),
        # No larger than the photos.
        (photos((130,) * 9, PHOTOGRAPHS), 2000, (128, 3, "resnet34")),
        # A single colour photo in a hundred or more is not worth two more channels.
        (photos((28,) * 9, ENLARGED, grey=0.995), 15, (28, 1, "resnet")),
        (photos((28,) * 9, ENLARGED, grey=0.9), 15, (28, 3, "resnet")),
    ],
)
def test_the_input_follows_from_the_photos_and_the_time(
    facts: Photos, minutes: float, expected: tuple[int, int, str]
) -> None:
    values = chosen(facts, replace(QUIET, seconds=minutes * 60))
    size, channels, model = expected
    assert (values["data.image_size"], values["data.channels"]) == (size, channels)
    assert values["data.resize_shorter"] == size
    assert values["model.name"].startswith(model)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_more_time_means_a_larger_network(bfloat16: bool) -> None:
    facts = photos((28,) * 9, ENLARGED, grey=1.0)
    names = [
        chosen(facts, replace(QUIET, seconds=60.0 * minutes, bfloat16=bfloat16))["model.name"]
        for minutes in (1, 4, 8, 15, 30, 60)
    ]
    ladder = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet18"]
    indices = [ladder.index(name) for name in names]
    assert indices == sorted(indices)
    assert (names[0], names[-1]) == ("resnet20", "resnet18")
    # With bfloat16, 15 minutes are enough for wide layers.
    assert (names[3] == "resnet18") == bfloat16


def test_a_wide_network_for_small_images_has_a_small_stem() -> None:
    hour = replace(QUIET, seconds=3600)
    assert chosen(photos((28,) * 9, ENLARGED), hour)["model.small_stem"] is True
    assert "model.small_stem" not in chosen(PHOTOS, hour)
    assert "model.small_stem" not in chosen(
        photos((28,) * 9, ENLARGED), hour, model__name="resnet20"
    )  # which has such a stem anyway
    given = chosen(photos((28,) * 9, ENLARGED), model__name="resnet18")
    assert given["model.small_stem"] is True
    # ImageNet's stem does not suit these images.
    given = chosen(photos((28,) * 9, ENLARGED), hour, model__small_stem=False)
    assert given["model.name"] == "resnet56"


@pytest.mark.parametrize(("milliseconds", "precision"), [(44, "bfloat16"), (47, "float32")])
def test_the_faster_precision_is_chosen(milliseconds: float, precision: str) -> None:
    choices = Choices()
    bfloat16 = Measurement(milliseconds / 1e3, 76, 0.3, 0, None)
    measured = choose_precision(choices, MEASURED, bfloat16)
    assert choices.values["training.precision"] == precision
    assert choices.reasons["training.precision"] == (
        f"A step took {milliseconds} ms in bfloat16 and 50 ms in float32, as measured once."
    )
    times = bfloat16 if precision == "bfloat16" else MEASURED
    assert measured == replace(
        MEASURED,
        step_seconds=times.step_seconds,
        validation_seconds=times.validation_seconds,
    )


def test_imbalanced_classes_are_sampled_evenly_with_the_measured_ratio() -> None:
    facts = photos((400,) * 9, PHOTOGRAPHS)
    assert "class_balance.balanced_sampling" not in chosen(facts)
    choices = Choices()
    uneven = replace(facts, classes={"bus": 500, "car": 125, "tram": 12, "ship": 124})
    choose_input(choices, uneven, QUIET, weights_model="")
    choose_training(choices, uneven, QUIET, pretrained=False)
    assert choices.values["class_balance.balanced_sampling"] is True
    assert choices.reasons["class_balance.balanced_sampling"] == (
        "The classes are imbalanced: 500 images of bus are 41.7 times as many as the 12 of tram; "
        "2 of 4 classes have fewer than 25% of the images of the largest class."
    )
    given = chosen(uneven, class_balance__balanced_sampling=False)
    assert given["class_balance.balanced_sampling"] is False
    weighted = chosen(uneven, class_balance__weights="inverse")
    assert "class_balance.balanced_sampling" not in weighted


@pytest.mark.parametrize(
    ("facts", "minutes", "given", "expected", "reason"),
    [
        # ResNet-50 needs time for 12 epochs at the largest size, and ResNet-18 for 4 at 96 pixels.
        (PHOTOS, 15, {}, ["resnet18"], "about 2 epochs of resnet50 with 224 x 224 pixels"),
        (PHOTOS, 200, {}, ["resnet50", "resnet18"], "about 20 epochs of resnet50 with 224"),
        (PHOTOS, 2, {}, [], "about 2.5 epochs of resnet18 with 96 x 96 pixels, and"),
        (PHOTOS, -1, {}, [], "about 0.0 epochs of resnet18"),
        # A size that was given is the only one.
        (PHOTOS, 40, {"data.image_size": 96}, ["resnet50", "resnet18"], "with 96 x 96"),
        (PHOTOS, 15, {"data.image_size": 224}, [], "of resnet18 with 224 x 224 pixels"),
        # With a network that was given, there is no alternative.
        (PHOTOS, 200, {"model.name": "resnet50"}, ["resnet50"], ""),
        (PHOTOS, 15, {"model.name": "resnet18"}, ["resnet18"], ""),
        # Images without enough detail for 96 pixels, whether or not their files are larger.
        (photos((64,) * 9, PHOTOGRAPHS), 200, {}, [], "An input of 64 pixels suits the photos"),
        (photos((28,) * 9, ENLARGED), 200, {}, [], "An input of 32 pixels suits the photos"),
        (photos((400,) * 9, ENLARGED), 200, {}, [], "An input of 32 pixels suits the photos"),
        # Settings that contradict the weights, and some that do not.
        (PHOTOS, 200, {"model.name": "resnet34"}, [], "do not fit model.name = resnet34"),
        (PHOTOS, 200, {"model.shortcut": "none"}, [], "do not fit model.shortcut = none"),
        (PHOTOS, 200, {"data.channels": 1}, [], "do not fit data.channels = 1"),
        (PHOTOS, 200, {"data.image_size": 64}, [], "do not fit data.image_size = 64"),
        (PHOTOS, 200, {"data.mean": [1.0] * 3}, [], "do not fit data.mean"),
        (PHOTOS, 15, {"model.frozen_epochs": 1, "training.seed": 1}, ["resnet18"], "preferred"),
    ],
)
def test_published_weights_suit_the_photos_and_the_time(
    facts: Photos,
    minutes: float,
    given: dict[str, Any],
    expected: list[str],
    reason: str,
) -> None:
    rows, why = published_weights(facts, replace(QUIET, seconds=minutes * 60), given)
    assert [row.model for row in rows] == expected
    assert reason in why
    assert bool(reason) == bool(why)


def test_weights_determine_network_and_channels() -> None:
    values = chosen(photos((400,) * 9, PHOTOGRAPHS, grey=1.0), QUIET, "resnet50")
    assert (values["model.name"], values["data.channels"]) == ("resnet50", 3)
    assert values["data.image_size"] >= 96
    assert values["optimizer.learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("train", "memory", "batch", "rate"),
    [
        (500, 16 * 2**30, 32, 0.025),
        (4800, 16 * 2**30, 64, 0.05),
        (60_000, 16 * 2**30, 128, 0.1),
        (60_000, 2**29, 16, 0.013),  # memory caps the batch, and the learning rate follows it
    ],
)
def test_the_batch_is_for_accuracy_and_memory_caps_it(
    train: int, memory: int, batch: int, rate: float
) -> None:
    facts = photos((64,) * 9, PHOTOGRAPHS, train=train)
    values = chosen(facts, replace(QUIET, memory=memory), data__image_size=64)
    assert values["training.batch_size"] == batch
    assert values["optimizer.learning_rate"] == rate


def test_given_values_replace_choices_and_lead_to_others() -> None:
    facts = photos((400,) * 9, PHOTOGRAPHS)
    values = chosen(facts, data__image_size=40, training__batch_size=256)
    assert (values["data.image_size"], values["data.resize_shorter"]) == (40, 40)
    assert values["model.name"].startswith("resnet2")  # the family for small images
    assert values["optimizer.learning_rate"] == 0.2


@pytest.mark.parametrize(
    ("lowest", "steps", "rate", "said"),
    [
        (0.4, 100, 0.05, "agrees"),
        (0.05, 100, 0.05, "agrees"),
        (0.03, 100, 0.01, "a third of that is used"),
        (None, 100, 0.05, "the loss did not fall in 100 steps"),
        (None, 0, 0.05, "there was no time"),
    ],
)
def test_the_finder_only_corrects_a_learning_rate_that_is_too_high(
    lowest: float | None, steps: int, rate: float, said: str
) -> None:
    choices = Choices()
    choices.choose("optimizer.learning_rate", 0.05)
    choose_learning_rate(
        choices, replace(MEASURED, finder_steps=steps, lowest_loss_learning_rate=lowest)
    )
    assert choices.values["optimizer.learning_rate"] == rate
    assert said in choices.reasons["optimizer.learning_rate"]


@pytest.mark.parametrize(
    ("seconds", "pretrained", "epochs"),
    [
        (531, False, 100),  # 76 x 0.05 + 0.5 + 1 = 5.3 s per epoch
        (54, False, 10),
        (-20, False, 1),  # always one
        (10_000, False, 150),  # more overfit
        (10_000, True, 12),
    ],
)
def test_the_epochs_follow_from_the_measured_times(
    seconds: float, pretrained: bool, epochs: int
) -> None:
    choices = Choices()
    choices.choose("optimizer.warmup_epochs", 1.0)
    choose_epochs(choices, replace(QUIET, seconds=seconds), MEASURED, pretrained=pretrained)
    assert choices.values["training.epochs"] == epochs
    assert "5.3 s per epoch" in choices.reasons["training.epochs"]
    assert choices.values["optimizer.warmup_epochs"] <= epochs / 4


def test_want_of_time_does_not_lead_below_what_can_be_seen() -> None:
    assert smaller_sizes(128, pretrained=False) == [64, 96]
    assert smaller_sizes(128, pretrained=True) == [96]
    assert smaller_sizes(64, pretrained=False) == []
    assert smaller_sizes(32, pretrained=False) == []
