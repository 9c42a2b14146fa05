"""Thresholds of the probability against numbers computed by hand, and against new images."""

import json

import numpy as np
import pytest

from keras_cnns.intervals import wilson_interval
from keras_cnns.runs.selective import (
    Confidence,
    Threshold,
    coverage_curve,
    find_threshold,
    find_thresholds,
    is_answered,
    measure_threshold,
)
from keras_cnns.training import Run


def calibrated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences of a model whose answers are correct with exactly these probabilities."""
    generator = np.random.default_rng(seed)
    confidences = generator.beta(6, 1, count)
    return confidences, generator.random(count) < confidences


def by_accuracy(confidence: Confidence) -> dict[float, Threshold]:
    return {each.min_accuracy: each for each in confidence.thresholds if each.min_accuracy}


def test_the_lowest_threshold_with_the_accuracy_is_chosen() -> None:
    # 200 images: all from 0.405 on are correct; of the 80 below it, every second one is correct.
    confidences = np.arange(1, 201) / 200
    is_correct = (np.arange(1, 201) > 80) | (np.arange(1, 201) % 2 == 0)
    found = find_thresholds("validation", confidences, is_correct)
    for each in by_accuracy(found).values():
        assert each.accuracy is not None
        assert each.min_accuracy is not None
        # Any image below the threshold would make the accuracy lower than the requested one.
        answers = confidences >= each.threshold
        assert is_correct[answers].mean() == each.accuracy >= each.min_accuracy
        for lower in confidences[~answers]:
            assert is_correct[confidences >= lower].mean() < each.min_accuracy
        assert (each.answered, each.correct) == (answers.sum(), is_correct[answers].sum())
        assert each.coverage == answers.mean()
        assert each.coverage_interval == wilson_interval(answers.sum(), 200)
        assert each.accuracy_interval == wilson_interval(each.correct, each.answered)
    assert [*by_accuracy(found)] == [0.9, 0.95, 0.98, 0.99]
    assert (found.split, found.samples) == ("validation", 200)
    assert [each.threshold for each in found.thresholds if each.min_accuracy is None] == [
        *(0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    ]


@pytest.mark.parametrize(
    ("confidences", "correct", "thresholds"),
    [
        (np.full(110, 0.7), 110, [0.0] * 4),  # no threshold is needed
        (np.full(110, 0.7), 90, []),  # no threshold would help
        (np.full(60, 0.7), 60, [0.0] * 3),  # too few images for 99 %
        (np.linspace(0.5, 1, 49), 49, []),  # too few images for any
        (np.repeat([0.31, 0.9996], [20, 100]), 100, [0.7] * 4),  # short, and far from both
        (np.repeat([0.99991, 0.99992], [20, 100]), 100, [0.99992] * 4),
        (
            np.repeat(np.array([1 - 2**-24, 1], np.float32), [20, 100]),
            100,
            [1.0] * 4,
        ),  # adjacent floats
    ],
)
def test_a_threshold_is_between_the_answered_images_and_the_others(
    confidences: np.ndarray, correct: int, thresholds: list[float]
) -> None:
    is_correct = np.arange(len(confidences)) >= len(confidences) - correct
    found = by_accuracy(find_thresholds("validation", confidences, is_correct))
    assert [each.threshold for each in found.values()] == pytest.approx(thresholds)
    for each in found.values():
        assert each.answered == (100 if each.threshold else len(confidences))


def test_a_probability_that_is_printed_as_the_threshold_reaches_it() -> None:
    assert is_answered(np.array([np.float32(0.9)]), 0.9).all()  # np.float32(0.9) is 0.89999998
    assert not is_answered(np.array([np.nan]), 0.0).any()


def test_the_curve_counts_equal_confidences_together() -> None:
    thresholds, answered, accuracies = coverage_curve(
        np.array([0.5, 0.9, 0.5, 0.8]), np.array([True, True, False, False])
    )
    np.testing.assert_allclose(thresholds, [0.9, 0.8, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(answered, [1, 2, 4])
    np.testing.assert_array_equal(accuracies, [1, 0.5, 0.5])


def test_without_answers_there_is_no_accuracy() -> None:
    found = measure_threshold(0.9, np.array([0.5, 0.6]), np.array([True, True]))
    assert (found.answered, found.accuracy, found.accuracy_interval) == (0, None, None)
    assert found.coverage_interval[0] == 0


def test_new_images_agree_with_the_table() -> None:
    """On 1,000 new images, the 95 % interval of each row contains the accuracy of the table."""
    table = find_thresholds("validation", *calibrated(5000, 1))
    confidences, is_correct = calibrated(1000, 2)
    assert len(by_accuracy(table)) == 4
    for row in table.thresholds:
        found = measure_threshold(row.threshold, confidences, is_correct)
        assert row.accuracy is not None
        assert found.accuracy_interval is not None
        assert found.accuracy_interval[0] <= row.accuracy <= found.accuracy_interval[1]
        assert found.coverage_interval[0] <= row.coverage <= found.coverage_interval[1]


def test_the_intervals_keep_their_promise() -> None:
    """For about 95 % of the chosen thresholds, the true accuracy is in the table's interval."""
    grid = np.linspace(0, 1, 100_001)
    density = grid**5  # of Beta(6, 1), up to a factor
    inside = trials = 0
    for seed in range(40):
        for row in by_accuracy(find_thresholds("x", *calibrated(1000, seed))).values():
            above = grid >= row.threshold
            truth = (density * grid)[above].sum() / density[above].sum()
            assert row.accuracy_interval is not None
            inside += row.accuracy_interval[0] <= truth <= row.accuracy_interval[1]
            trials += 1
    assert trials > 140
    assert 0.92 <= inside / trials <= 0.99


def test_a_threshold_is_found_by_its_accuracy() -> None:
    results = {"confidence": find_thresholds("validation", *calibrated(1000, 1)).to_dict()}
    (row,) = [each for each in results["confidence"]["thresholds"] if each["min_accuracy"] == 0.98]
    assert find_threshold(results, 0.98) == row["threshold"]
    with pytest.raises(ValueError, match=r"accuracy 0\.97; there are thresholds for 0\.9, 0\.95, "):
        find_threshold(results, 0.97)
    with pytest.raises(ValueError, match="there are no thresholds: give --min-probability"):
        find_threshold({}, 0.9)  # a run of version 0.1


def test_a_training_chooses_them_on_the_validation_split(finished_run: Run) -> None:
    confidence = finished_run.results()["confidence"]
    assert (confidence["split"], confidence["samples"]) == ("validation[:32]", 32)
    rows = confidence["thresholds"]
    assert [row["threshold"] for row in rows] == [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
