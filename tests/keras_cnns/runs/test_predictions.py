"""Figures of predictions against scikit-learn's, and against ones computed by hand."""

import keras
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from keras_cnns.runs.predictions import Predictions, calibrate, collect, wilson_interval

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 4, 200)
PREDICTED = np.where(GENERATOR.random(200) < 0.7, LABELS, GENERATOR.integers(0, 4, 200))


def make(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Predictions:
    return Predictions(classes, labels, predicted, np.ones(len(labels)), (), 0.0)


def test_confusion_precision_and_recall_are_those_of_scikit_learn() -> None:
    predictions = make(LABELS, PREDICTED, 4)
    np.testing.assert_array_equal(predictions.confusion(), confusion_matrix(LABELS, PREDICTED))
    precision, recall = predictions.precision_and_recall()
    np.testing.assert_allclose(precision, precision_score(LABELS, PREDICTED, average=None))
    np.testing.assert_allclose(recall, recall_score(LABELS, PREDICTED, average=None))
    assert predictions.accuracy == np.mean(LABELS == PREDICTED)


def test_what_was_never_there_has_no_share() -> None:
    precision, recall = make(np.array([0, 0]), np.array([0, 1]), 3).precision_and_recall()
    np.testing.assert_array_equal(precision, [1, 0, np.nan])
    np.testing.assert_array_equal(recall, [0.5, np.nan, np.nan])


def test_calibration_error_by_hand() -> None:
    # Two bins: 0.3 and 0.5 with one right of two, 0.6 and 1.0 with two of two.
    found = calibrate(np.array([0.3, 0.5, 0.6, 1.0]), np.array([True, False, True, True]), bins=2)
    np.testing.assert_array_equal(found.counts, [2, 2])
    np.testing.assert_allclose(found.confidence, [0.4, 0.8])
    np.testing.assert_allclose(found.accuracy, [0.5, 1.0])
    assert found.error == pytest.approx(0.5 * 0.1 + 0.5 * 0.2)


# Brown, Cai and DasGupta 2001; the ends by the formula of Wilson 1927.
@pytest.mark.parametrize(
    ("hits", "samples", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (356, 364, 0.9572, 0.9888)],
)
def test_interval(hits: int, samples: int, low: float, high: float) -> None:
    assert wilson_interval(hits, samples) == pytest.approx((low, high), abs=1e-4)


def test_answers_are_collected_and_the_surest_mistakes_kept() -> None:
    inputs = keras.Input((1, 1, 2))
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Flatten()(inputs)))
    images = np.zeros((6, 1, 1, 2), "uint8")
    images[:, 0, 0, 1] = [1, 3, 2, 0, 3, 0]  # called 1, the surer the higher
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = collect(model, [(images[:4], labels[:4]), (images[4:], labels[4:])], worst=2)
    np.testing.assert_array_equal(found.predicted, [1, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(found.labels, labels)
    probabilities = 1 / (1 + np.exp([1, 3, 2, 0, -3, 0]))  # of the true class
    assert found.loss == pytest.approx(-np.log(probabilities).mean(), rel=1e-5)
    assert found.metrics() == {"samples": 6, "loss": found.loss, "accuracy": found.accuracy}
    assert [(each.number, each.label, each.predicted) for each in found.mistakes] == [
        (1, 0, 1),
        (2, 0, 1),
    ]
    assert found.mistakes[0].confidence + found.mistakes[0].of_label == pytest.approx(1)
