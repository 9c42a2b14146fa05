"""The focal loss of weighted targets, its gradient by hand, and Keras' losses as references."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnns import losses
from keras_cnns.losses import FocalCrossentropy

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(6, 4)).astype("float32")
PROBABILITIES = keras.ops.softmax(LOGITS)
SOFT = GENERATOR.dirichlet(np.ones(4), size=6).astype("float32")
WEIGHTS = np.array([[0.1], [5], [1], [2], [0.5], [3]], "float32")


def gradient(loss: keras.losses.Loss, targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss(targets, keras.ops.softmax(variable))
    return np.asarray(tape.gradient(value, variable))


def test_without_gamma_it_is_the_cross_entropy() -> None:
    expected = keras.losses.CategoricalCrossentropy()(SOFT, PROBABILITIES)
    np.testing.assert_allclose(FocalCrossentropy()(SOFT, PROBABILITIES), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_with_gamma_it_is_the_focal_loss_of_keras(gamma: float) -> None:
    expected = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma)
    np.testing.assert_allclose(
        FocalCrossentropy(gamma)(SOFT, PROBABILITIES), expected(SOFT, PROBABILITIES), rtol=1e-5
    )


def test_the_gradient_of_a_weighted_target_is_weighted() -> None:
    """For a cross-entropy of softmax it is weight * (p - t), divided by the sum of the weights."""
    found = gradient(FocalCrossentropy(), WEIGHTS * SOFT, LOGITS)
    np.testing.assert_allclose(
        found, WEIGHTS * (np.asarray(PROBABILITIES) - SOFT) / WEIGHTS.sum(), atol=1e-6
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_class_of_tiny_or_full_probability_has_a_gradient(gamma: float) -> None:
    """Keras' loss of probabilities has none below 1e-7."""
    logits = np.array([[0.0, 40.0], [40.0, 0.0]], "float32")
    wrong, right = gradient(FocalCrossentropy(gamma), np.eye(2, dtype="float32"), logits)
    np.testing.assert_allclose(wrong[0], (1 - 4e-18) * -0.5, rtol=0.2)
    assert np.isfinite(right).all()


def test_a_batch_without_weight_has_the_loss_zero() -> None:
    assert float(FocalCrossentropy(gamma=2.0)([[0.0, 0.0]], [[0.5, 0.5]])) == 0
    with pytest.raises(ValueError, match="gamma is -1; it must be at least 0"):
        FocalCrossentropy(gamma=-1)


def test_it_is_saved_with_its_gamma() -> None:
    loss = keras.losses.deserialize(keras.losses.serialize(FocalCrossentropy(1.5)))
    assert isinstance(loss, FocalCrossentropy)
    assert loss.gamma == 1.5


def test_the_example_of_the_documentation_is_right() -> None:
    result = doctest.testmod(losses)
    assert (result.attempted, result.failed) == (2, 0)
