"""Training on several devices with TensorFlow.

The tests marked `soak` run in processes of their own, in which TensorFlow divides the CPU into
virtual devices. `replicas.py` compares single steps in float64; the tests here compare whole
trainings. Their learning rate is so low that rounding is not amplified: on one device, a change of
the first kernel by one part in ten million changes no loss by more than 1e-4 either.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.models.batch_normalization import BatchNormalization
from keras_cnns.models.dropout import Dropout
from keras_cnns.replicas import ReplicaPart, current_part, part_of_batch
from tests.own_process import run_tests

HERE = Path(__file__).parent
# 1,253 training images: the last of 14 batches has 5 images, which do not divide by 2 or 4.
CHANGES = (
    "training.epochs=2",
    "training.batch_size=96",
    "training.max_steps=20",
    "optimizer.warmup_epochs=0",
    "optimizer.learning_rate=0.00003",
)
STEPS, STEPS_IN_EPOCH, TOLERANCE, SECONDS = 20, 14, 1e-4, 1200
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


def test_dropout_on_replicas_has_the_mask_of_the_whole_batch() -> None:
    images = np.ones((6, 5), "float32")
    expected = Dropout(0.5, seed=1)(images, training=True)
    assert 0 < np.count_nonzero(expected) < images.size
    for first in (0, 2, 4):
        with part_of_batch(ReplicaPart(first, 2, 6)):
            part = Dropout(0.5, seed=1)(images[:2], training=True)
        np.testing.assert_array_equal(part, expected[first : first + 2])
    assert current_part() is None


def test_batch_norm_of_a_single_part_is_the_fused_kernel() -> None:
    """The default strategy of TensorFlow has one replica, which is enough for the formula."""
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(3.0, 2.0, (4, 5, 6, 3)), tf.float32)

    def step(layer: keras.layers.Layer) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y**3)
        gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
        return [y, *gradients, layer.moving_mean.value, layer.moving_variance.value]

    expected = step(BatchNormalization())
    with part_of_batch(ReplicaPart(0, 4, 4)):
        actual = step(BatchNormalization())
    for mine, fused in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, fused, rtol=1e-4, atol=1e-3)


def start(path: Path, name: str, *options: str, factor: float = 1.0) -> subprocess.Popen[str]:
    """Start a training that writes its losses into `name`.json."""
    with (path / f"{name}.log").open("a") as output:
        return subprocess.Popen(
            [
                *(sys.executable, str(HERE / "distributed_training.py")),
                *(str(path / name), str(path / f"{name}.json"), str(factor)),
                *(";".join(CHANGES), *options),
            ],
            env=ENVIRONMENT,
            cwd=path,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def finish(*processes: subprocess.Popen[str]) -> None:
    try:
        assert [process.wait(SECONDS) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()


def read(path: Path, name: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = json.loads((path / f"{name}.json").read_text())
    return values


def compare(path: Path, name: str, other: str) -> None:
    mine, others = read(path, name), read(path, other)
    assert len(mine["steps"]) == STEPS
    assert np.ptp(mine["steps"]) > 0.5  # they differ among each other
    assert mine.keys() == others.keys()
    for key, values in mine.items():
        difference = np.abs(np.subtract(values, others[key])).max()
        print(name, other, key, difference)
        assert difference <= TOLERANCE, (name, other, key)


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_replicas_take_the_steps_of_one_device(replicas: int) -> None:
    environment = {"KERAS_BACKEND": "tensorflow", "REPLICAS": str(replicas)}
    summary = run_tests(HERE / "replicas.py", **environment)
    assert "passed" in summary
    assert "skipped" not in summary


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_devices_train_as_one_device_does(tmp_path: Path) -> None:
    finish(start(tmp_path, "one"), start(tmp_path, "perturbed", factor=1 + 1e-7))
    compare(tmp_path, "one", "perturbed")  # rounding is not amplified beyond the tolerance
    finish(start(tmp_path, "two", "--devices", "2"), start(tmp_path, "four", "--devices", "4"))
    compare(tmp_path, "one", "two")
    compare(tmp_path, "one", "four")


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("before", "after"), [("1", "2"), ("2", "1"), ("2", "2")])
def test_a_killed_training_resumes_at_its_step(before: str, after: str, tmp_path: Path) -> None:
    killed = start(tmp_path, "killed", "--devices", before)
    checkpoint = tmp_path / "killed" / "checkpoints" / "step-00000006.checkpoint"
    end = time.monotonic() + SECONDS
    while not checkpoint.exists():
        assert time.monotonic() < end
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finish(
        start(tmp_path, "killed", "--devices", after),
        start(tmp_path, "whole", "--devices", before),
    )
    assert "resuming at step" in (tmp_path / "killed.log").read_text()
    compare(tmp_path, "killed", "whole")
    if before == after:
        # The training is the same bit for bit. Only the running mean of the resumed epoch is
        # rounded differently, because its sum is divided among the replicas again.
        killed_values, values = (read(tmp_path, name) for name in ("killed", "whole"))
        assert killed_values["validation"] == values["validation"]
        assert killed_values["steps"][STEPS_IN_EPOCH:] == values["steps"][STEPS_IN_EPOCH:]
