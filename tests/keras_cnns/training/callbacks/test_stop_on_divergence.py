"""An error for a loss that is not finite names the step, the learning rate and the layer."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import survivor
import tensorflow as tf

from keras_cnns.training.callbacks import Resume, StopOnDivergence
from keras_cnns.training.callbacks.stop_on_divergence import DivergedError
from keras_cnns.training.checkpoint import list_checkpoints


@keras.saving.register_keras_serializable("tests")
class Overflow(keras.layers.Layer):
    """Gives infinity from its fifth training step on."""

    def build(self, input_shape: Any) -> None:
        self.count = self.add_weight(name="count", initializer="zeros", trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.count.assign_add(1.0)
        return x / keras.ops.cast(self.count < 5.0, x.dtype)


def make_net(*, overflow: bool = False, rate: Any = 0.1) -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten(name="flatten")(inputs)
    x = keras.layers.Dense(8, name="hidden")(x)
    if overflow:
        x = Overflow(name="overflow")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    schedule = rate
    if isinstance(rate, float):
        schedule = keras.optimizers.schedules.ExponentialDecay(rate, 1, 0.5)
    model.compile(keras.optimizers.SGD(schedule), loss)
    return model


def nan_at(step: int) -> Any:
    batches, _ = survivor.make_batches()

    def spoilt(first: int) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(first, survivor.STEPS * survivor.EPOCHS)
        return tf.data.Dataset.zip(numbers, batches(first)).map(
            lambda number, pair: (tf.where(number == step, np.nan, pair[0]), pair[1])
        )

    return spoilt


@pytest.mark.parametrize(
    ("options", "batches", "step", "rate", "cause"),
    [
        (
            {"overflow": True},
            survivor.make_batches()[0],
            5,
            0.1 * 0.5**4,
            "the first layer whose output is not finite is overflow (Overflow)",
        ),
        (
            {},
            nan_at(12),
            13,
            0.1 * 0.5**12,
            "the batch itself holds values that are not finite",
        ),
        (
            {"rate": 1e38},
            survivor.make_batches()[0],
            2,
            5e37,
            "the first layer whose output is not finite is hidden (Dense)",
        ),
    ],
    ids=["a layer", "a batch", "a rate"],
)
def test_the_cause_of_a_nan_is_named(
    tmp_path: Path, options: dict[str, Any], batches: Any, step: int, rate: float, cause: str
) -> None:
    keras.utils.set_random_seed(0)
    model = make_net(**options)
    steps = survivor.STEPS
    resume = Resume(tmp_path, batches, steps_per_epoch=steps, steps=4)
    with pytest.raises(DivergedError) as error:
        model.fit(
            batches(0),
            steps_per_epoch=steps,
            epochs=3,
            callbacks=[resume, StopOnDivergence(resume)],
            shuffle=False,
            verbose=0,
        )
    message = str(error.value)
    kept = (step - 1) // 4 * 4
    assert f"at step {step} (epoch {1 + (step - 1) // steps}, step" in message
    assert f"with the learning rate {rate:.4g}" in message
    assert cause in message
    assert f"the checkpoint of step {kept} is kept" in message
    assert list_checkpoints(tmp_path)[0].name == f"step-{kept:08d}.checkpoint"
    assert all(np.isfinite(each).all() for each in model.get_weights())


def test_of_several_steps_in_one_execution_the_one_that_diverged_is_named(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    batches, steps = nan_at(5), survivor.STEPS
    model = make_net()
    model.compile("sgd", model.loss, steps_per_execution=3)
    resume = Resume(tmp_path, batches, steps_per_epoch=steps)
    with pytest.raises(DivergedError, match=r"at step 6 \(epoch 1, step 6 of 9\).*batch itself"):
        model.fit(
            batches(0),
            steps_per_epoch=steps,
            callbacks=[resume, StopOnDivergence(resume)],
            shuffle=False,
            verbose=0,
        )


@pytest.mark.parametrize(
    ("rate", "step", "cause"),
    [(1e38, 2, "weights of hidden are not finite"), (0.1, 6, "weights of hidden are not finite")],
    ids=["the learning rate", "a batch"],
)
def test_without_a_resume_the_step_is_named(rate: float, step: int, cause: str) -> None:
    keras.utils.set_random_seed(0)
    model = make_net(rate=rate)
    with pytest.raises(DivergedError) as error:
        model.fit(
            nan_at(5)(0),
            steps_per_epoch=survivor.STEPS,
            callbacks=[StopOnDivergence()],
            shuffle=False,
            verbose=0,
        )
    assert f"at step {step} of epoch 1, with the learning rate" in str(error.value)
    assert cause in str(error.value)
