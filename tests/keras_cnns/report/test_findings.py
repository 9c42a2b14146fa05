"""Each sentence appears if its condition holds, and not otherwise."""

import re

import numpy as np
import pytest

from keras_cnns.report.findings import describe_end, describe_overfitting, describe_scarce_classes


@pytest.mark.parametrize(
    ("validation_loss", "falls"),
    [
        ([1.0, 0.8, 0.6], True),
        ([1.0, 0.6, 0.7, 0.5], True),
        ([1.0, 0.6, 0.597], False),  # by less than 1 %
        ([1.0, 0.5, 0.6], False),  # below the epoch before, and not below all
        ([1.0, 0.4, 0.6, 0.5], False),
        ([1.0], False),
        ([], False),
    ],
)
def test_the_validation_loss_still_fell(validation_loss: list[float], falls: bool) -> None:
    found = describe_end(np.array(validation_loss))
    said = "The validation loss still fell in the last epoch: train longer."
    assert found.startswith(said) == falls == bool(found)


FALLING = [1.0, 0.8, 0.6, 0.4, 0.3, 0.2]


@pytest.mark.parametrize(
    ("loss", "validation_loss", "since"),
    [
        (FALLING, [1.0, 0.9, 0.8, 0.9, 1.0, 1.1], 3),
        (FALLING, [1.0, 0.5, 0.6, 0.6, 0.6, 0.6], 2),
        (FALLING, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], None),
        (FALLING, [1.0, 0.9, 0.8, 0.8, 0.81, 0.8], None),  # a plateau
        (FALLING, [1.0, 0.9, 0.8, 0.8, 0.8, 1.2], None),  # an outlier at the end
        (FALLING, [1.0, 0.9, 0.8, 1.2, 1.1, 0.81], None),  # it has recovered
        (FALLING, [1.0, 0.9, 0.8, 0.7, 0.6, 0.9], None),  # one epoch is not enough
        # The training loss rises too, as in a training that diverges.
        ([1.0, 0.8, 0.6, 0.8, 1.0, 1.2], [1.0, 0.9, 0.8, 0.9, 1.0, 1.1], None),
        ([1.0], [1.0], None),
        ([], [], None),
    ],
)
def test_overfitting(loss: list[float], validation_loss: list[float], since: int | None) -> None:
    found = describe_overfitting(np.array(loss), np.array(validation_loss))
    match = re.match(r"The model has overfitted since epoch (\d+)\.", found)
    assert (int(match[1]) if match else None) == since
    assert bool(found) == (since is not None)


def test_classes_with_few_images_are_named() -> None:
    counts = np.diag([13, 400, 600])
    counts[0, 1] = 1
    assert describe_scarce_classes(counts, ["Hemd", "Hose", "Rock"]) == [
        "14 images of Hemd are too few to measure the recall of this class. The 95 % interval of "
        "the recall is 69% to 99%."
    ]
    assert describe_scarce_classes(100 * counts, ["Hemd", "Hose", "Rock"]) == []


def test_a_class_without_or_with_one_image_is_named() -> None:
    counts = np.diag([0, 1, 600])
    found = describe_scarce_classes(counts, ["Hemd", "Hose", "Rock"])
    assert [each.partition(".")[0] for each in found] == [
        "0 images of Hemd are too few to measure the recall of this class",
        "1 image of Hose is too few to measure the recall of this class",
    ]


def test_many_classes_with_few_images_are_one_sentence() -> None:
    (found,) = describe_scarce_classes(np.diag([5, 4, 3, 2, 500]), list("abcde"))
    assert found.startswith("4 of 5 classes have too few test images to measure their recall, ")
    assert found.endswith("The classes with the fewest test images are d (2), c (3) and b (4).")
