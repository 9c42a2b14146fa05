"""The examples of docs/tensorflow-serving.md and serve/README.md, run with their own clients."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.conftest import grey, write_version
from tests.serve.processes import Process, running

ROOT = Path(__file__).parents[3]
EXAMPLES = dict(
    re.findall(
        r"```python (\S+)\n(.*?)```",
        (ROOT / "docs" / "tensorflow-serving.md").read_text("utf-8"),
        re.DOTALL,
    )
)
README = (ROOT / "serve" / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    models = tmp_path_factory.mktemp("models")
    write_version(models / "digits-resnet20" / "1")
    with running(str(models)) as process:
        yield process


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a client: an image, and the messages compiled as the page says."""
    directory = tmp_path_factory.mktemp("client")
    for name in ("image.png", "seven.png", "a.png", "b.jpg"):
        (directory / name).write_bytes(grey(130))
    protos = str(ROOT / "serve" / "keras_cnns_serve" / "protos")
    compiler = [sys.executable, "-m", "grpc_tools.protoc", "-I", protos, "--python_out", "."]
    subprocess.run(
        [*compiler, "tensorflow.proto", "tensorflow_serving.proto"], cwd=directory, check=True
    )
    return directory


@pytest.mark.parametrize("name", ["rest", "grpc", "without-tensorflow"])
def test_the_example_prints_the_class(name: str, server: Process, client: Path) -> None:
    code = EXAMPLES[name].replace("127.0.0.1:8501", f"127.0.0.1:{server.port}")
    code = code.replace("127.0.0.1:8500", server.grpc)
    if name == "without-tensorflow":
        code += "import sys\nassert 'tensorflow' not in sys.modules\n"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=client, capture_output=True, text=True, check=False
    )
    assert process.stdout == "5\n", process.stderr


def run_shell(command: str, server: Process, directory: Path) -> str:
    """Run a command of serve/README.md with the server's port, and return what it prints."""
    command = command.replace("127.0.0.1:8501", f"127.0.0.1:{server.port}")
    process = subprocess.run(
        ["bash", "-c", command], cwd=directory, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def labels_of(answer: str) -> list[list[str]]:
    """Return the labels of each image in an answer to :classify-image."""
    rows = [row["labels"] for row in json.loads(answer)["predictions"]]
    assert all(scored.keys() == {"label", "probability"} for row in rows for scored in row)
    return [[scored["label"] for scored in row] for row in rows]


def test_curl_prints_labels_as_in_the_readme(server: Process, client: Path) -> None:
    matches = re.findall(r"^\$ (curl .*)\n(.*)$", README, re.MULTILINE)
    assert matches
    for command, answer in matches:
        labels = labels_of(run_shell(f"{command} --silent", server, client))
        assert [row[0] for row in labels] == ["grey-5"]
        assert [len(row) for row in labels] == [len(row) for row in labels_of(answer)]


def test_curl_sends_a_form_as_in_the_readme(server: Process, client: Path) -> None:
    (form,) = re.findall(r"`(curl -F .*) \.\.\.`", README)
    (url,) = re.findall(r"^try: curl .* (http\S+)$", README, re.MULTILINE)
    labels = labels_of(run_shell(f"{form} {url} --silent", server, client))
    assert [row[0] for row in labels] == ["grey-5"] * 2


def test_tritonclient_prints_classes_as_in_the_readme(server: Process, client: Path) -> None:
    (code,) = re.findall(r'^python -c "\n(import numpy.*?)"$', README, re.MULTILINE | re.DOTALL)
    code = code.replace("127.0.0.1:8501", f"127.0.0.1:{server.port}")
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=client, capture_output=True, text=True, check=False
    )
    assert re.match(r"\[\[b'0\.472247:5:grey-5' b'0\.\d+:\d:grey-\d'\]\]", process.stdout), (
        process.stderr
    )
