"""An exported model repository in Triton, OpenVINO and keras-cnns-serve, unchanged."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import keras
import numpy as np
import onnxruntime
import openvino
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image

from keras_cnns.registry import build
from keras_cnns_export import export
from tests.production.replicas import DEPLOY, free_ports, program, wait_until
from tests.serve.processes import running

PROGRAM = DEPLOY.parent / "benchmarks" / "serving_peers" / "triton_repository.py"
LABELS = [f"class-{number}" for number in range(10)]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    model = build("resnet20", input_shape=(32, 32, 3), classes=10)
    export(model, root / "digits", labels=LABELS)
    return root


@contextlib.contextmanager
def triton(models: Path, log: Path) -> Iterator[tuple[str, str]]:
    """Triton's addresses for HTTP and gRPC."""
    http, grpc = free_ports(2)
    python = Path(program("kubernetes-validate", "make check-deploy installs it"))
    with log.open("w") as stream:
        popen = subprocess.Popen(
            [str(python.with_name("python")), str(PROGRAM), str(models), str(http), str(grpc)],
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            stdout=stream,
            stderr=stream,
        )

    def ready() -> bool:
        assert popen.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{http}/v2/health/ready").status_code == 200
        return False

    try:
        wait_until(ready, "Triton is ready")
        yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    finally:
        popen.terminate()
        try:
            popen.wait(30)
        finally:
            popen.kill()


def ask(client: Any, protocol: Any) -> tuple[Any, Any]:
    """The probabilities, and the two most probable labels of each image."""

    def infer(**options: Any) -> Any:
        tensor = protocol.InferInput("images", list(IMAGES.shape), "UINT8")
        tensor.set_data_from_numpy(IMAGES)
        outputs = [protocol.InferRequestedOutput("probabilities", **options)]
        return client.infer("digits", [tensor], outputs=outputs).as_numpy("probabilities")

    best = infer(class_count=2)
    return infer(), [[each.decode().split(":")[1:] for each in row] for row in best]


def example(address: str, folder: Path) -> str:
    """What the example of docs/other-servers.md prints."""
    page = (DEPLOY.parent / "docs" / "other-servers.md").read_text("utf-8")
    (code,) = re.findall(r"^```python triton\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert '"127.0.0.1:8000"' in code
    Image.fromarray(IMAGES[0]).save(folder / "image.png")
    return subprocess.run(
        [sys.executable, "-c", code.replace("127.0.0.1:8000", address, 1)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_both_servers_give_the_same_answers(models: Path, tmp_path: Path) -> None:
    answers = []
    with triton(models, tmp_path / "log") as theirs, running(str(models)) as process:
        ours = (process.url.removeprefix("http://"), process.grpc)
        for addresses in (theirs, ours):
            printed = example(addresses[0], tmp_path)
            for protocol, address in zip(
                (tritonclient.http, tritonclient.grpc), addresses, strict=True
            ):
                with protocol.InferenceServerClient(address) as client:
                    assert client.is_model_ready("digits", "1")
                    answers.append(ask(client, protocol))
                    assert printed.strip().split(":")[1:] == answers[-1][1][0][0]
    probabilities, labels = answers[0]
    assert probabilities.shape == (3, 10)
    assert labels[0][0] == [str(probabilities[0].argmax()), LABELS[probabilities[0].argmax()]]
    for others, names in answers[1:]:
        np.testing.assert_allclose(others, probabilities, atol=1e-6)
        assert names == labels


def test_openvino_reads_the_onnx_file(models: Path) -> None:
    path = models / "digits" / "1" / "model.onnx"
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(path)
    (expected,) = session.run(["probabilities"], {"images": IMAGES})
    np.testing.assert_allclose(model({"images": IMAGES})["probabilities"], expected, atol=1e-5)
