"""Training on several devices and in several processes, on loopback.

The learning rate of the comparisons is so low that rounding is not amplified: on one device, a
change of the first kernel by one part in ten million changes no loss by more than 1e-4 either.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml

from keras_cnns.cli import app, run
from keras_cnns.data.pipeline import Part
from keras_cnns.data.splits import open_split
from keras_cnns.recipes import AugmentationConfig, load_recipe
from keras_cnns.training.distribution import DistributionError, check_batch_size
from keras_cnns.training.processes import Address

HERE = Path(__file__).parent
CLUSTER = HERE.parents[2] / "examples" / "cluster"
DIGITS = load_recipe("digits-resnet20").data
# 1,253 training images: the last of 14 batches has 5 images, which do not divide by 2 or 4.
CHANGES = (
    "training.epochs=2;training.batch_size=96;training.max_steps=20;"
    "optimizer.warmup_epochs=0;optimizer.learning_rate=0.0001"
)
TOLERANCE = 1e-4
STEPS = 20
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
# A process may need this long to start, or to notice that another one is gone.
STARTED_SECONDS, GONE_SECONDS = 600, 60

Processes = list[subprocess.Popen[str]]
Start = Callable[..., Processes]


@pytest.mark.parametrize(
    "augmentation", [AugmentationConfig(), AugmentationConfig(pad_and_crop=2, mixup_alpha=0.2)]
)
def test_the_parts_of_a_batch_are_the_batch(augmentation: AugmentationConfig) -> None:
    data = replace(DIGITS, train_split="train[:100]")  # the last of 3 batches has 28 images
    options: dict[str, Any] = {"batch_size": 36, "seed": 1, "augmentation": augmentation}
    whole = open_split(data, data.train_split, **options)
    parts = [
        open_split(data, data.train_split, **options, part=Part(index, 3, 6)) for index in range(3)
    ]
    for batch, *read in zip(whole.epoch(1), *(part.epoch(1) for part in parts), strict=True):
        is_divided = len(batch[0]) % 6 == 0
        for number in (0, 1):
            arrays = [np.asarray(each[number]) for each in read]
            for array in arrays if not is_divided else [np.concatenate(arrays)]:
                np.testing.assert_array_equal(array, batch[number])
        for each in read:
            assert set(np.asarray(each[2])) == {len(batch[0])}
    for part in parts:  # the diagnostics see the same images in all processes
        np.testing.assert_array_equal(next(iter(part.probe()))[0], next(iter(whole.probe()))[0])


def test_a_batch_size_must_be_a_multiple_of_the_devices() -> None:
    check_batch_size(32, 4)
    with pytest.raises(DistributionError, match=r"is 32, .* a multiple of 3, such as 30 or"):
        check_batch_size(32, 3)
    with pytest.raises(DistributionError, match=r"such as 64$"):
        check_batch_size(32, 64)


def test_an_address_has_a_host_and_a_port() -> None:
    assert str(Address.parse("10.0.0.1:9300")) == "10.0.0.1:9300"
    assert Address.parse("[::1]:9300") == Address("::1", 9300)
    for text in ("host", "host:", ":9300", "host:port", "host:70000"):
        with pytest.raises(DistributionError, match="HOST:PORT of process 0"):
            Address.parse(text)


TWO = ("--devices", "2", "--set")
NOISE = "model.batch_norm_noise"
PROCESSES = ("--coordinator", "host:9300", "--processes", "2", "--process-id")


NO_PORT = ("--coordinator", "host", "--processes", "2", "--process-id")


def adam(argument: str) -> tuple[str, ...]:
    return (*TWO, "optimizer.name=adam", "--set", f"optimizer.arguments={{{argument} = 2}}")


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("tensorflow", ("--devices", "3"), "is 32, and 3 devices cannot divide such a batch"),
        ("tensorflow", (*TWO, f"{NOISE}=0.1"), f"{NOISE} is 0.1, .* set it to 0, or set KERAS_B"),
        ("tensorflow", adam("clipnorm"), "clipnorm is 2, and with TensorFlow, Keras clips the gra"),
        ("tensorflow", adam("clipvalue"), "arguments.clipvalue is 2, .*; remove it, or set KERAS_"),
        ("tensorflow", adam("global_clipnorm"), "global_clipnorm is 2, .* or omit --devices"),
        ("tensorflow", adam("gradient_accumulation_steps"), "accumulation_steps is 2, .* not supp"),
        ("tensorflow", adam("ema_overwrite_frequency"), "ema_overwrite_frequency is 2, .* several"),
        ("tensorflow", (*PROCESSES, "0"), "cannot train with TensorFlow's MultiWorkerMirrored"),
        ("torch", ("--devices", "2"), "has no distribution for torch; set KERAS_BACKEND=jax"),
        (
            "numpy",
            (),
            "Keras runs on numpy, which cannot train; set KERAS_BACKEND to tensorflow, jax",
        ),
        ("jax", ("--connect-seconds", "5"), "--connect-seconds: it is the time to wait for other"),
        ("jax", ("--devices", "2", "--connect-seconds", "5"), "needs --coordinator, such as"),
        ("jax", (*NO_PORT, "0"), "--coordinator is 'host'; give HOST:PORT of process 0, such as"),
        ("jax", (*PROCESSES, "2"), "it is 2, and must be from 0 to 1 for 2 processes"),
        ("jax", (*PROCESSES, "-1"), "it is -1, and must be from 0 to 1 for 2 processes"),
        ("jax", ("--coordinator", "host:9300"), "must come with --process-id and --processes"),
        ("jax", ("--processes", "2"), "must come with --coordinator and --process-id"),
        ("jax", ("--devices", "3"), "is 32, and 3 devices cannot divide such a batch"),
        ("jax", ("--devices", "2", "--dry-run"), "trains on one device; use it without --devices"),
        ("jax", (*PROCESSES, "0", "--folds", "2"), "use it without --coordinator"),
    ],
)
def test_what_cannot_be_distributed_is_refused(
    backend: str,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    arguments = ["train", "--recipe", "digits-resnet20", "--run", str(tmp_path / "run")]
    assert run(app, [*arguments, *options], "keras-cnns") == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_examples_for_clusters_can_be_read() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], check=True)
    kinds = {
        name: [each["kind"] for each in yaml.safe_load_all((CLUSTER / name).read_text())]
        for name in ("indexed-job.yaml", "trainjob.yaml")
    }
    assert kinds == {"indexed-job.yaml": ["Service", "Job"], "trainjob.yaml": ["TrainJob"]}
    for path in CLUSTER.iterdir():
        text = path.read_text()
        assert all(each in text for each in ("--coordinator", "--processes", "--process-id")), path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the processes of a training, and kill those that are left at the end."""
    started: Processes = []

    def start(name: str, processes: int, *options: str, factor: float = 1.0) -> Processes:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        paths = [str(tmp_path / name), str(tmp_path / f"{name}.json"), str(factor), CHANGES]
        new: Processes = []
        for index in range(processes):
            several = ["--coordinator", address, "--processes", str(processes)]
            several += ["--process-id", str(index), "--connect-seconds", "200"]
            command = [sys.executable, str(HERE / "distributed_training.py"), *paths, *options]
            output = (tmp_path / f"{name}.{index}.log").open("w")
            new.append(
                subprocess.Popen(
                    [*command, *(several if processes > 1 else [])],
                    env=ENVIRONMENT,
                    cwd=tmp_path,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            output.close()
        started.extend(new)
        return new

    yield start
    for process in started:
        process.kill()
        process.wait()


def finish(processes: Processes) -> None:
    assert [process.wait(STARTED_SECONDS) for process in processes] == [0] * len(processes)


def losses(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    result = json.loads((path / f"{name}.json").read_text())
    return np.array(result["steps"]), np.array(result["validation"])


def compare(path: Path, name: str, other: str) -> None:
    steps, validation = losses(path, name)
    assert len(steps) == STEPS
    assert np.ptp(steps) > 0.5  # they differ among each other
    for mine, others in zip((steps, validation), losses(path, other), strict=True):
        print(name, other, np.abs(mine - others).max())
        np.testing.assert_allclose(mine, others, atol=TOLERANCE, rtol=0)


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_processes_and_devices_train_as_one_device_does(start: Start, tmp_path: Path) -> None:
    finish(start("one", 1))
    finish(start("perturbed", 1, factor=1 + 1e-7))
    compare(tmp_path, "one", "perturbed")  # rounding is not amplified beyond the tolerance
    finish(start("devices", 1, "--devices", "4"))
    compare(tmp_path, "one", "devices")
    finish(start("two", 2))
    compare(tmp_path, "one", "two")
    finish(start("four", 4))
    compare(tmp_path, "one", "four")


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("victim", "processes_after"), [(1, 2), (0, 2), (1, 1), (1, 4)])
def test_a_process_is_killed_and_the_training_resumes(
    victim: int, processes_after: int, start: Start, tmp_path: Path
) -> None:
    finish(start("one", 1))
    processes = start("killed", 2)
    checkpoints = tmp_path / "killed" / "checkpoints"
    end = time.monotonic() + STARTED_SECONDS
    while not (checkpoints / "step-00000006.checkpoint").exists():
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[victim].kill()
    other = processes[1 - victim]
    began = time.monotonic()
    assert other.wait(GONE_SECONDS) != 0
    print("ended after", time.monotonic() - began)
    time.sleep(1)  # for the child that prints the message if JAX has aborted
    text = (tmp_path / f"killed.{1 - victim}.log").read_text()
    assert f"process {victim}" in text.splitlines()[-1]
    assert "is gone" in text.splitlines()[-1]
    assert "Start all processes again" in text.splitlines()[-1]
    assert not (tmp_path / "killed" / "results.json").exists()
    finish(start("killed", processes_after))
    assert "resuming at step" in (tmp_path / "killed.0.log").read_text()
    compare(tmp_path, "one", "killed")


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_the_reason_of_the_first_process_reaches_the_others(tmp_path: Path) -> None:
    (tmp_path / "websockets").write_text("a file")  # a name that is no sign of a lost connection
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, "-m", "keras_cnns.cli", "train", "--recipe", "digits-resnet20"]
    command += ["--run", str(tmp_path / "websockets"), "--coordinator", address]
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [*command, "--processes", "2", "--process-id", index],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in ("0", "1")
    ]
    errors = [process.communicate(timeout=STARTED_SECONDS)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert all("websockets is a file" in each.strip().splitlines()[-1] for each in errors)
    assert not list(tmp_path.glob("keras-cnns-*"))


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_jax_estimates_a_training(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "keras_cnns.cli", "train", "--recipe", "digits-resnet20"]
    result = subprocess.run(
        [*command, "--run", str(tmp_path / "run"), "--dry-run"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "trainable parameters" in result.stdout


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_processes_that_do_not_meet_end_with_a_message(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, "-m", "keras_cnns.cli", "train", "--recipe", "digits-resnet20"]
    command += ["--run", str(tmp_path / "run"), "--coordinator", address, "--processes", "2"]
    for index, message in (("1", "cannot reach the coordinator"), ("0", "not all of the 2 proc")):
        result = subprocess.run(
            [*command, "--process-id", index, "--connect-seconds", "5"],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode != 0
        assert message in result.stderr.strip().splitlines()[-1]
        assert "within 5 s" in result.stderr.strip().splitlines()[-1]
