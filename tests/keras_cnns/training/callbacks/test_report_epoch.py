import keras
import numpy as np
import pytest
from two_layers import fit, make_model

from keras_cnns.training.callbacks.report_epoch import ReportEpoch


def test_every_epoch_is_reported_until_the_answer_is_yes() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    images, labels = np.zeros((4, 3), "float32"), np.zeros(4, int)
    reported: list[tuple[int, float]] = []

    def report(epoch: int, accuracy: float) -> bool:
        reported.append((epoch, accuracy))
        return epoch == 2

    history = model.fit(
        images,
        labels,
        validation_data=(images, labels),
        epochs=5,
        verbose=0,
        callbacks=[ReportEpoch(report)],
    )
    assert reported == list(enumerate(history.history["val_accuracy"], 1))
    assert len(reported) == 2


def test_a_training_without_validation_is_an_error() -> None:
    with pytest.raises(ValueError, match="the logs have no 'val_accuracy'"):
        fit(make_model(), ReportEpoch(lambda epoch, accuracy: False), steps=2, epochs=1)
