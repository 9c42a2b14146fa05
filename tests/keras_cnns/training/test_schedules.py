"""The learning rate over the steps, with the numbers of the papers."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras
import pytest

from keras_cnns.optimizers import ConstantWarmUp, OneCycle, WarmUp
from keras_cnns.recipes import load_recipe
from keras_cnns.training.schedules import make_schedule

# recipe, steps of an epoch, {step: learning rate}
PAPERS: list[tuple[str, int, dict[int, float]]] = [
    # He et al. 2015, section 4.2: 45,000 images in batches of 128.
    (
        "cifar10-resnet20",
        352,
        {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001},
    ),
    # He et al. 2015, section 4.2: 0.01 for about 400 steps, then the schedule of ResNet-20.
    (
        "cifar10-resnet110",
        352,
        {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 0.001},
    ),
    # Goyal et al. 2017, section 5.1: decay at 30, 60 and 80; no warm-up of batches of 256.
    (
        "imagenet-resnet50",
        5005,
        {
            0: 0.1,
            5005: 0.1,
            5 * 5005: 0.1,
            30 * 5005 - 1: 0.1,
            30 * 5005: 0.01,
            60 * 5005: 0.001,
            80 * 5005: 0.0001,
        },
    ),
    # Szegedy et al. 2014, section 6: 4 % each 8 epochs.
    (
        "imagenet-googlenet",
        40_037,
        {0: 0.01, 8 * 40_037 - 1: 0.01, 8 * 40_037: 0.0096, 80 * 40_037: 0.01 * 0.96**10},
    ),
    # Caffe's quick_solver: 0.01 * sqrt(1 - step / 2,400,000).
    ("imagenet-googlenet-quick", 40_037, {0: 0.01, 1_800_000: 0.005, 2_400_000: 0.0}),
    # 600 steps: up for 180 from a 25th of the peak, down for the rest.
    ("shapes-resnet18", 120, {0: 0.002, 90: 0.026, 180: 0.05, 390: 0.025, 600: 2e-7}),
]


@pytest.mark.parametrize(("recipe", "epoch", "rates"), PAPERS, ids=[each[0] for each in PAPERS])
def test_a_recipes_rate_is_the_papers(recipe: str, epoch: int, rates: dict[int, float]) -> None:
    schedule = make_schedule(load_recipe(recipe), epoch)
    assert {step: float(schedule(step)) for step in rates} == pytest.approx(
        rates, rel=2e-4, abs=1e-8
    )


def test_the_rate_scales_with_the_batch() -> None:
    for batch_size, rate in ((256, 0.1), (1024, 0.4), (8192, 3.2)):
        recipe = load_recipe("imagenet-resnet50", [f"training.batch_size={batch_size}"])
        assert float(make_schedule(recipe, 100)(500)) == pytest.approx(rate)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_a_large_batch_warms_up_from_the_rate_of_the_small_one(schedule: str) -> None:
    """Goyal et al. 2017, section 2.2: from 0.1, in equal steps, to k * 0.1 after 5 epochs."""
    overrides = ["training.batch_size=8192", f"optimizer.schedule={schedule}"]
    overrides += [] if schedule == "step" else ["optimizer.decay_at_epochs=[]"]
    rate = make_schedule(load_recipe("imagenet-resnet50", overrides), 156)
    for step, expected in {0: 0.1, 78: 0.41, 390: 1.65, 780: 3.2}.items():
        assert float(rate(step)) == pytest.approx(expected)


def test_an_exponential_decay_has_at_least_a_step() -> None:
    recipe = load_recipe("imagenet-googlenet", ["optimizer.decay_every_epochs=0.4"])
    schedule = make_schedule(recipe, steps_per_epoch=1)
    assert float(schedule(1)) == pytest.approx(0.01 * 0.96)


def test_the_cosine_begins_after_the_warm_up() -> None:
    recipe = load_recipe(
        "digits-resnet20",
        ["training.epochs=10", "optimizer.warmup_epochs=2", "optimizer.learning_rate=0.1"],
    )
    schedule = make_schedule(recipe, 5)
    rates = [float(schedule(step)) for step in range(51)]
    assert [rates[0], rates[10], rates[30]] == pytest.approx([0.0, 0.1, 0.05])
    assert all(before < after for before, after in pairwise(rates[:11]))
    assert all(before > after for before, after in pairwise(rates[10:]))


@pytest.mark.parametrize(
    "schedule",
    [
        WarmUp(0.1, 10),
        WarmUp(0.8, 10, start=0.1),
        WarmUp(keras.optimizers.schedules.CosineDecay(0.1, 40), 10),
        OneCycle(0.1, 40),
        ConstantWarmUp(WarmUp(OneCycle(0.1, 40), 10), 20, 0.01),
        ConstantWarmUp(0.1, 20, 0.01),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_schedule_is_saved_and_read(schedule: Any) -> None:
    schedules = keras.optimizers.schedules
    again = schedules.deserialize(schedules.serialize(schedule))
    assert type(again) is type(schedule)
    for step in (0, 5, 10, 25, 40, 50):
        assert float(again(step)) == pytest.approx(float(schedule(step)))


@pytest.mark.parametrize(
    "make", [lambda: WarmUp(0.1, 0), lambda: ConstantWarmUp(0.1, 0, 0.01), lambda: OneCycle(0.1, 0)]
)
def test_a_schedule_without_steps_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="steps is 0; it must be above 0"):
        make()


def test_a_held_rate_of_version_0_1_is_read_as_the_warmup_that_replaced_it() -> None:
    saved = {
        "module": "keras_cnns.training.schedules",
        "class_name": "HeldRate",
        "config": {
            "schedule": {
                "module": "keras_cnns.training.schedules",
                "class_name": "WarmUp",
                "config": {"schedule": 0.1, "steps": 1, "start": 0.0},
                "registered_name": "keras_cnns>WarmUp",
            },
            "rate": 0.01,
        },
        "registered_name": "keras_cnns>HeldRate",
    }
    schedule = keras.optimizers.schedules.deserialize(saved)
    assert type(schedule) is ConstantWarmUp
    assert [round(float(schedule(step)), 6) for step in (0, 399, 400)] == [0.01, 0.01, 0.1]
