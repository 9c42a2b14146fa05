"""The words of the section on thresholds."""

import numpy as np

from keras_cnns.report.selective_section import describe_thresholds, threshold_row
from keras_cnns.runs.selective import Threshold, find_thresholds, measure_threshold


def described(confidences: np.ndarray, is_correct: np.ndarray) -> list[str]:
    confidence = find_thresholds("validation", confidences, is_correct).to_dict()
    test: list[Threshold] = [
        measure_threshold(each["threshold"], confidences[::2], is_correct[::2])
        for each in confidence["thresholds"]
    ]
    return describe_thresholds(confidence, test)


def test_the_threshold_for_the_highest_accuracy_is_described() -> None:
    confidences = np.arange(1, 201) / 200
    first, chosen, *others = described(confidences, np.arange(1, 201) > 80)
    assert first.startswith("The thresholds were chosen on the 200 images of validation; ")
    assert chosen == (
        "With the threshold 0.4, the model answers 60.0% of the test images, and 100.0% of these "
        "answers are correct (95 % interval 94.0% to 100.0%)."
    )
    assert others == []


def test_a_model_that_needs_no_threshold() -> None:
    _, chosen, *others = described(np.full(100, 0.6), np.full(100, True))
    assert chosen == (
        "No threshold is needed for an accuracy of 99%: on the images of validation, 100.0% of all "
        "answers are correct."
    )
    assert others == []


def test_accuracies_without_a_threshold_are_named() -> None:
    _, *others = described(np.full(60, 0.6), np.full(60, False))
    assert others == [
        "There is no threshold for 90% or 95% or 98% or 99% correct answers: at least 50 answers "
        "with an accuracy of 90% would be needed."
    ]
    *_, last = described(np.full(60, 0.6), np.full(60, True))
    assert last == (
        "There is no threshold for 99% correct answers: at least 100 answers with this accuracy "
        "would be needed."
    )


def test_a_threshold_without_answers_has_a_row() -> None:
    row = threshold_row(vars(measure_threshold(0.9, np.full(10, 0.5), np.full(10, True))))
    assert row == ("-", "0.9", "0.0%", "-", "-")
