"""The examples of docs/tensorflow-serving.md, run as they are written by the clients they name."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.conftest import grey, write_version
from tests.serve.processes import Process, running

ROOT = Path(__file__).parents[4]
EXAMPLES = dict(
    re.findall(
        r"```python (\S+)\n(.*?)```",
        (ROOT / "docs" / "tensorflow-serving.md").read_text("utf-8"),
        re.DOTALL,
    )
)


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
    (directory / "image.png").write_bytes(grey(130))
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
