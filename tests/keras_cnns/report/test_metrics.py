"""Metrics against numbers computed by hand."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from keras_cnns.intervals import wilson_interval
from keras_cnns.report.metrics import (
    balanced_accuracy,
    confusion_counts,
    precision_and_recall,
    recall_intervals,
    reliability_bins,
)

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 4, 200)
PREDICTED = np.where(GENERATOR.random(200) < 0.7, LABELS, GENERATOR.integers(0, 4, 200))


def test_confusion_precision_and_recall_are_those_of_their_definitions() -> None:
    counts = confusion_counts(LABELS, PREDICTED, 4)
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (LABELS, PREDICTED), 1)
    np.testing.assert_array_equal(counts, expected)
    precision, recall = precision_and_recall(LABELS, PREDICTED, 4)
    np.testing.assert_allclose(precision, np.diag(counts) / counts.sum(axis=0))
    np.testing.assert_allclose(recall, np.diag(counts) / counts.sum(axis=1))


def test_a_class_without_images_or_predictions_has_no_fraction() -> None:
    labels, predicted = np.array([0, 0]), np.array([0, 1])
    np.testing.assert_array_equal(
        confusion_counts(labels, predicted, 3), [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    )
    precision, recall = precision_and_recall(labels, predicted, 3)
    np.testing.assert_array_equal(precision, [1, 0, np.nan])
    np.testing.assert_array_equal(recall, [0.5, np.nan, np.nan])


def test_calibration_error_by_hand() -> None:
    # Two bins: 0.3 and 0.5 with one of two correct, 0.6 and 1.0 with two of two.
    found = reliability_bins(
        np.array([0.3, 0.5, 0.6, 1.0]), np.array([True, False, True, True]), bins=2
    )
    np.testing.assert_array_equal(found.counts, [2, 2])
    np.testing.assert_allclose(found.confidence, [0.4, 0.8])
    np.testing.assert_allclose(found.accuracy, [0.5, 1.0])
    assert found.error == pytest.approx(0.5 * 0.1 + 0.5 * 0.2)


# Brown, Cai and DasGupta 2001; the ends are from the formula of Wilson 1927.
@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (356, 364, 0.9572, 0.9888)],
)
def test_interval(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(hits, trials) == pytest.approx((low, high), abs=1e-4)


def test_balanced_accuracy_is_the_mean_recall_of_classes_with_images() -> None:
    counts = np.array([[90, 10, 0], [1, 1, 0], [0, 0, 0]])
    assert balanced_accuracy(counts) == pytest.approx((0.9 + 0.5) / 2)
    labels = np.repeat([0, 0, 1, 1], [90, 10, 1, 1])
    predicted = np.repeat([0, 1, 0, 1], [90, 10, 1, 1])
    assert balanced_accuracy(counts) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_recalls_have_intervals() -> None:
    assert recall_intervals(np.array([[13, 1, 0], [0, 50, 50], [0, 0, 0]])) == [
        ("92.9%", "68.5% to 98.7%"),
        ("50.0%", "40.4% to 59.6%"),
        ("-", "-"),
    ]
