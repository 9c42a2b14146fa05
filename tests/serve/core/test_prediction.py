from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Prediction, Target, Timing, best_labels

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    "row",
    [
        GENERATOR.random(10, np.float32),
        GENERATOR.random(1000, np.float32),
        np.array([0.25, 0.5, 0.25, 0.5], np.float32),  # of equal values, the first comes first
        np.array([0.25, np.nan, 0.75], np.float32),
    ],
    ids=["few", "many", "ties", "nan"],
)
@pytest.mark.parametrize("top_k", [1, 5, 2000])
def test_the_likeliest_labels_come_first(
    dataplane: Dataplane, row: NDArray[np.float32], top_k: int
) -> None:
    labels = tuple(f"label-{number}" for number in range(len(row)))
    source = replace(dataplane.metadata(Target("grey")), labels=labels)
    prediction = Prediction(source, {"probabilities": np.stack([row, row])}, Timing(0, 0, 0))
    expected = np.argsort(-row, kind="stable")[:top_k]
    for best in best_labels(prediction, top_k):
        assert [scored.label for scored in best] == [labels[index] for index in expected]
        np.testing.assert_array_equal([scored.probability for scored in best], row[expected])
