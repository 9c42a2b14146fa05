import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from keras_cnns_serve.cli import main
from keras_cnns_serve.options import UsageError, parse
from tests.serve.conftest import grey, write_version
from tests.serve.processes import CLASSIFY, running


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: MODELS"),
        ("models --model-config-file a.toml", "give either MODELS or --model-config-file, not"),
        ("models --versions newest", "argument --versions: 'newest' is not a choice of versions"),
        ("models --timeout soon", "argument --timeout: 'soon' is not a number from 0.001 to"),
        ("models --engine tpu", "argument --engine: invalid choice: 'tpu'"),
        ("models --prot 1", "unrecognized arguments: --prot 1"),
        ("models extra", "unrecognized arguments: extra"),
        ("models --port 8500 --grpc-port 8500", "HTTP and gRPC need different ports, but both"),
        ("models --port", "argument --port: expected one argument"),
        ("models --port http", "argument --port: 'http' is not an integer from 0 to 65535"),
        ("models --port 65536", "argument --port: '65536' is not an integer from 0 to 65535"),
        ("models --threads 0", "argument --threads: '0' is not an integer from 1 to 1024"),
        ("models --max-pixels 1e6", "argument --max-pixels: '1e6' is not an integer"),
        ("models --max-body-bytes -1", "argument --max-body-bytes: '-1' is not a size from 1 to"),
        ("models --max-body-bytes 2GiB", "argument --max-body-bytes: '2GiB' is not a size from"),
        ("models --max-json-bytes 3GiB", "argument --max-json-bytes: '3GiB' is not a size from"),
        ("models --memory-budget 1MB", "argument --memory-budget: '1MB' is not a size from 167"),
        ("models --memory-budget much", "argument --memory-budget: 'much' is not a size"),
        ("models --tls-key k.pem", "TLS needs both --tls-certificate and --tls-key"),
        (
            "models --cors-origin https://a.example/",
            "--cors-origin 'https://a.example/' is not an or",
        ),
        ("models --admin-token-file t", "--admin-token-file has no effect without --admin"),
        ("models --open-metrics", "--open-metrics has no effect without --token-file"),
        ("models --admin --token-file t", "with --token-file, --admin needs --admin-token-file"),
        ("models --tls-client-ca c.pem", "TLS needs both --tls-certificate and --tls-key"),
        (f"models --port {'9' * 5000}", "argument --port: '999"),
    ],
)
def test_bad_usage_is_two_lines_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(arguments.split(), program="keras-cnns serve") == 2
    printed = capsys.readouterr()
    first, second, rest = printed.err.split("\n")
    assert first.startswith(f"keras-cnns serve: {message}")
    assert second == "Try: keras-cnns serve --help"
    assert (rest, printed.out) == ("", "")


def test_an_option_is_repeated() -> None:
    given = ["models", "--cors-origin", "https://a.example", "--cors-origin", "http://b:8000"]
    assert parse("x", "", given).cors_origin == ["https://a.example", "http://b:8000"]
    assert parse("x", "", ["models"]).cors_origin == []


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256MB", 256_000_000),
        ("256 MB", None),
        ("1GiB", 2**30),
        ("20000k", 20_000_000),
        ("32Mi", 2**25),
        ("33554432", 2**25),
        ("20mb", 20_000_000),
    ],
)
def test_a_size_has_a_unit(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(UsageError):
            parse("x", "", ["models", "--memory-budget", text])
    else:
        assert parse("x", "", ["models", "--memory-budget", text]).memory_budget == size


@pytest.mark.parametrize(
    ("directory", "message"),
    [
        ("absent", "absent does not exist; give the directory of the models, for inst"),
        ("empty", "empty has no model that can be served; export one there, for instance as mode"),
        ("bad", "bad has no model that can be served\ngrey/1 refused: model.json: format is 9"),
    ],
)
def test_failed_work_is_status_1_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], directory: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_version(tmp_path / "bad" / "grey" / "1", format=9)
    assert main([str(tmp_path / directory), "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("keras-cnns-serve: ") or directory == "bad"  # first the log says so
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments", ["--debug absent", "absent --debug", "absent --port 0 --debug"]
)
def test_debug_anywhere_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    assert main([*arguments.split(), "--port=0"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "keras-cnns-serve: absent does not exist" in error


def test_a_port_that_is_taken_is_one_line(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([str(repository), "--port", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"keras-cnns-serve: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "--port 0 picks a free port\n"
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"keras-cnns-serve {metadata.version('keras-cnns-serve')}\n"


def test_help_ends_with_an_example_that_works(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"], program="keras-cnns serve") == 0
    text = capsys.readouterr().out
    assert "Serve a directory of exported models over HTTP and gRPC." in text
    serve, curl = (line.strip() for line in text.rstrip().split("\n")[-2:])
    assert serve == "keras-cnns serve models --port 8501"
    assert shlex.split(curl)[0] == "curl"
    assert "/v1/models/digits:classify-image" in curl


def test_limits_reach_the_server(repository: Path) -> None:
    """--max-pixels and --max-body-bytes, through the real process."""
    limits = ("--max-pixels", "100", "--max-body-bytes", "1000", "--threads", "2")
    with running(str(repository), *limits) as server:
        assert server.classify(grey(130, (10, 10))) == "grey-5"
        for content, message in [
            (grey(130, (11, 10)), "11 x 10 pixels, more than 100"),
            (bytes(1001), "the body has more than 1,000 bytes"),
        ]:
            response = server.http.post(CLASSIFY, content=content)
            assert response.status_code == 413
            assert message in response.json()["error"]


def test_importing_the_command_line_is_quick() -> None:
    """The list of commands of keras-cnns imports this module for its first line of help."""
    code = "import sys, keras_cnns_serve.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "onnxruntime", "starlette", "uvicorn", "PIL", "orjson", "asyncio"}
    assert not heavy & set(done.stdout.split())
