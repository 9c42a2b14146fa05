"""The scripts and the notebook in examples/, run as they are, for a few steps each."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from client import server
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = json.loads((EXAMPLES / "first_hour.ipynb").read_text("utf-8"))
# In this order: finetune.py starts from the weights that fit_resnet.py writes.
TRAINING = ["fit_resnet.py", "fit_googlenet_aux.py", "finetune.py", "own_callback.py"]
# Importing TensorFlow or JAX takes longer than a few steps, so one process runs all scripts.
RUN_ALL = """
import runpy, sys
for script in sys.argv[1:]:
    print("running", script, flush=True)
    runpy.run_path(script, run_name="__main__")
"""
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def run_all(scripts: list[Path], directory: Path, backend: str) -> str:
    environment = {**os.environ, **QUIET, "KERAS_BACKEND": backend, "EXAMPLE_STEPS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", RUN_ALL, *map(str, scripts)],
        cwd=directory,
        env={**environment, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    return process.stdout


def code_cells() -> str:
    sources = [cell["source"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(source) for source in sources)


def test_every_example_is_tested() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    others = {"export_any_keras_model.py", "client.py", "first_hour.ipynb"}
    assert names == {*TRAINING, *others}


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.soak)])
def test_the_training_examples_run(backend: str, tmp_path: Path) -> None:
    scripts = [EXAMPLES / name for name in TRAINING]
    if backend == "tensorflow":
        (tmp_path / "first_hour.py").write_text(code_cells())
        scripts += [EXAMPLES / "export_any_keras_model.py", tmp_path / "first_hour.py"]
    printed = run_all(scripts, tmp_path, backend)
    assert "test accuracy" in printed
    for written in ("digits-resnet20.keras", "digits-googlenet.keras", "photos.keras"):
        assert (tmp_path / written).is_file()
    header = (tmp_path / "diagnostics.csv").read_text().partition("\n")[0].split(",")
    assert {"weight_norm", "weight_norm/hidden1", "gradient_norm", "dead_relu"} <= set(header)
    if backend == "tensorflow":
        assert (tmp_path / "models" / "any-keras-model" / "1" / "model.onnx").is_file()
        assert (tmp_path / "seven.png").is_file()


def run_client(address: str, image: Path, model: str = "quick") -> subprocess.CompletedProcess[str]:
    arguments = [str(image), "--model", model, "--server", address]
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "client.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.full((32, 32), 100, np.uint8)).save(path)
    return path


def test_the_client_classifies_an_image(model_repository: Path, image: Path) -> None:
    with server([sys.executable, "-m", "keras_cnns_serve.cli"], model_repository) as address:
        answer = run_client(address, image)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.startswith(f"{image}: ")
        unknown = run_client(address, image, "nothing")
    assert unknown.returncode == 1
    assert "the server returned the status 404" in unknown.stderr
    gone = run_client(address, image)
    assert gone.returncode == 1
    assert "cannot connect to a server" in gone.stderr


class Busy(http.server.BaseHTTPRequestHandler):
    """Answer the first request with 429, and the next one with a prediction."""

    times: ClassVar[list[float]] = []
    as_date: ClassVar[bool] = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.times.append(time.monotonic())
        status: int = 429 if len(self.times) == 1 else 200
        body: dict[str, Any] = {"predictions": [{"labels": [{"label": "7", "probability": 1.0}]}]}
        content = json.dumps(body).encode()
        self.send_response(status)
        # A date has whole seconds, so this one is 1 to 2 seconds ahead.
        date = formatdate(int(time.time()) + 2, usegmt=True)
        self.send_header("Retry-After", date if self.as_date else "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def busy_server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Busy) as busy:
        thread = threading.Thread(target=busy.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{busy.server_port}"
        finally:
            busy.shutdown()
            thread.join()


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_the_client_waits_as_long_as_a_busy_server_says(
    as_date: bool, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Busy.times.clear()
    monkeypatch.setattr(Busy, "as_date", as_date)
    with busy_server() as address:
        answer = run_client(address, image)
    assert answer.stdout == f"{image}: 7 100.00%\n"
    first, second = Busy.times
    assert second - first >= 1


def test_the_notebook_is_valid_and_has_no_paths_of_a_machine() -> None:
    assert NOTEBOOK["nbformat"] == 4
    assert NOTEBOOK["nbformat_minor"] >= 5  # cells have ids
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK["cells"]:
        expected = {"id", "cell_type", "metadata", "source"}
        if cell["cell_type"] == "code":
            expected |= {"execution_count", "outputs"}
        assert set(cell) == expected
    text = json.dumps(NOTEBOOK)
    homes = ("home", "tmp", "Users", "root")
    assert [name for name in homes if f"/{name}/" in text] == []
    # Any other absolute path: the slash follows no host, no name and no "<" of a closing tag. The
    # base64 of pictures contains slashes too.
    text = re.sub(r"(\\n|[A-Za-z0-9+/=]){200,}", "", text)
    assert re.findall(r"(?<![\w.:/<~-])/[\w.-]+/", text) == []
