from typing import Any

import numpy as np
import pytest

from keras_cnns.report.metrics import reliability_bins
from keras_cnns_export import ExportError
from keras_cnns_export.batches import Array, batches_of
from keras_cnns_export.calibration import (
    MAX_TEMPERATURE,
    calibrate,
    expected_calibration_error,
    fit_temperature,
)
from keras_cnns_export.graph import serving_graph


def sampled(temperature: float, samples: int = 20_000) -> tuple[Array, Array]:
    """Logits, and classes drawn as softmax(logits / temperature) says."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (samples, 4))
    # The argmax of the logits plus this noise has the distribution softmax(logits).
    noise = random.gumbel(size=logits.shape)
    return logits, (logits / temperature + noise).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_drew_the_classes_is_found(temperature: float) -> None:
    assert fit_temperature(*sampled(temperature)) == pytest.approx(temperature, rel=0.03)


def test_it_ends_where_nothing_holds_it() -> None:
    logits = np.eye(3)
    assert fit_temperature(logits, np.arange(3)) == pytest.approx(0.1)
    assert fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(MAX_TEMPERATURE)


def test_the_error_is_the_gap_between_confidence_and_accuracy() -> None:
    # Bin of 0.8: mean confidence 0.8, half are right. Bin of 1: all are right.
    probabilities = np.array([[0.8, 0.2]] * 4 + [[0.0, 1.0]] * 4)
    classes = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    assert expected_calibration_error(probabilities, classes) == pytest.approx(0.3 * 0.5)


@pytest.mark.parametrize("other", [0.62, 0.58])
def test_it_is_the_error_of_the_training_report_at_the_edges_of_bins_too(other: float) -> None:
    # Guo et al. 2017, equation 3: the bins are (l, u], so 9/15 shares a bin with 0.58.
    confidence = np.array([9 / 15] * 10 + [other] * 10)
    is_right = np.arange(20) < 10
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    error = expected_calibration_error(probabilities, np.where(is_right, 0, 1))
    gaps = np.array([0.4, other])  # of each half: |accuracy - confidence|
    by_hand = abs(0.4 - other) / 2 if other < 9 / 15 else gaps.mean()
    assert error == pytest.approx(by_hand)
    assert error == pytest.approx(reliability_bins(confidence, is_right).error)


def test_a_graph_is_calibrated_and_its_error_shrinks(tiny: Any, split: Any) -> None:
    graph = serving_graph(tiny, ("logits",))
    result = calibrate(graph, batches_of(split, graph.image_shape), "test")
    assert (result.split, result.samples) == ("test", 70)
    assert result.expected_calibration_error_after < result.expected_calibration_error_before
    logits = graph.function(split[0])["logits"].numpy()
    assert result.temperature == pytest.approx(fit_temperature(logits, split[1]), rel=1e-3)


def test_without_labels_there_is_nothing_to_fit(tiny: Any, split: Any) -> None:
    graph = serving_graph(tiny, ("logits",))
    for data, message in [
        (split[0], "labelled images, and these images have no labels"),
        ((split[0][:0], split[1][:0]), "'test' has no images"),
    ]:
        with pytest.raises(ExportError, match=message):
            calibrate(graph, batches_of(data, graph.image_shape), "test")
