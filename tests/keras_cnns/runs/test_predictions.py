import keras
import numpy as np
import pytest

from keras_cnns.runs.predictions import collect


def test_predictions_are_collected_with_the_most_confident_mistakes() -> None:
    inputs = keras.Input((1, 1, 2))
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Flatten()(inputs)))
    images = np.zeros((6, 1, 1, 2), "uint8")
    images[:, 0, 0, 1] = [
        1,
        3,
        2,
        0,
        3,
        0,
    ]  # predicted as 1, with a confidence that grows with the value
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = collect(model, [(images[:4], labels[:4]), (images[4:], labels[4:])], worst=2)
    np.testing.assert_array_equal(found.predicted, [1, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(found.labels, labels)
    probabilities = 1 / (1 + np.exp([1, 3, 2, 0, -3, 0]))  # of the true class
    assert found.loss == pytest.approx(-np.log(probabilities).mean(), rel=1e-5)
    assert found.metrics() == {"samples": 6, "loss": found.loss, "accuracy": found.accuracy}
    assert [(each.index, each.label, each.predicted) for each in found.mistakes] == [
        (1, 0, 1),
        (2, 0, 1),
    ]
    assert all(each.image.base is None for each in found.mistakes)  # no view of a whole batch
    assert found.mistakes[0].confidence + found.mistakes[0].label_probability == pytest.approx(1)
