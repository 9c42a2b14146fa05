"""The real process, spoken to over real sockets."""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from keras_cnns_serve import Server, ServerOptions
from keras_cnns_serve.transport import addresses
from tests.serve.conftest import grey, write_version
from tests.serve.images.test_decoding import JPEG, huge_png
from tests.serve.processes import CLASSIFY, IMAGE, Process, running
from tests.serve.transport.grpc import frames

ZEROS = np.zeros((8, 8, 1), int).tolist()
HEAD = f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(IMAGE)}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Process]:
    with running(str(repository), "--max-body-bytes", "2000000") as process:
        yield process


def test_says_what_it_serves_where_and_how_to_ask(server: Process) -> None:
    assert server.lines == [
        "fragile: version 1, 8x8x1 pixels, 10 labels",
        "grey: version 1, 8x8x1 pixels, 10 labels",
        "nan: version 1, 8x8x1 pixels, 10 labels",
        "two: version 1, 8x8x1 pixels, 10 labels",
        f"gRPC on {server.grpc}",
        f"serving on http://127.0.0.1:{server.port}",
        f"try: curl --data-binary @image.png {server.url}/v1/models/fragile:classify-image",
    ]
    refused = "WARNING: grey/2 refused: labels.txt does not match its checksum in model.json"
    runs = r"INFO: (\w+)/1 is available: model.onnx by onnxruntime, float32, \d+ threads? .*"
    others = [line for line in server.errors if line != refused]
    assert len(others) == len(server.errors) - 1
    assert [match and match[1] for match in (re.fullmatch(runs, line) for line in others)] == [
        *("fragile", "grey", "nan", "two"),
    ]


def test_what_clients_send_to_grpc_writes_nothing_to_stderr(server: Process) -> None:
    """By default grpcio would write a line for each call, past the log and its limits."""

    async def call() -> bytes:
        async with frames.connect(int(server.grpc.rpartition(":")[2])) as client:
            await client.until(frames.SETTINGS)
            client.send(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
            path = "/grpc.health.v1.Health/Check"
            client.send(frames.call_headers(1, path, grpc_timeout=b"soon"))
            client.send(frames.frame(frames.DATA, frames.END_STREAM, 1, bytes(5)))
            return await client.until(frames.HEADERS, frames.END_STREAM)

    before = len(server.errors)
    assert b"grpc-timeout" in asyncio.run(asyncio.wait_for(call(), 10))
    time.sleep(0.1)
    assert server.errors[before:] == []


@pytest.mark.parametrize(
    ("path", "request_", "status"),
    [
        (CLASSIFY, {"content": JPEG[:-1000]}, 400),
        (CLASSIFY, {"content": b"not an image"}, 415),
        (CLASSIFY, {"content": huge_png(50_000, 50_000)}, 413),
        (CLASSIFY, {"content": bytes(8_000_000)}, 413),
        (CLASSIFY, {"content": iter([bytes(100_000)] * 80)}, 413),
        ("/v1/models/grey:predict", {"content": b"{"}, 400),
        ("/v1/models/grey:predict", {"json": {"instances": [[1, 2], [3, 4]]}}, 400),
        ("/v1/models/grey:predict", {"content": b"[" * 1000}, 400),
        ("/v1/models/grey:predict", {"content": b"[" * 1_000_000}, 413),
        ("/v1/models/gray:predict", {"json": {"instances": [ZEROS]}}, 404),
        ("/v1/models/grey/versions/2:predict", {"json": {"instances": [ZEROS]}}, 503),
        ("/v1/models/grey:nonsense", {"content": b""}, 400),
    ],
)
def test_bad_input_gets_its_code_and_the_server_goes_on(
    server: Process, path: str, request_: dict[str, Any], status: int
) -> None:
    response = server.http.post(path, **request_)
    assert response.status_code == status
    assert response.json()["error"]
    assert server.classify() == "grey-5"


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client at the wrong port
        b"GARBAGE\r\n\r\n",
        b"POST " + CLASSIFY.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST " + CLASSIFY.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
def test_a_malformed_request_is_refused(server: Process, request_: bytes) -> None:
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(request_)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert server.classify() == "grey-5"


def test_a_request_sent_by_halves_blocks_nobody(server: Process) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(20)]
        for connection in slow:
            connection.sendall(HEAD + IMAGE[:10])
        started = time.monotonic()
        assert server.classify() == "grey-5"
        assert time.monotonic() - started < 5
        slow[0].sendall(IMAGE[10:])
        assert b"grey-5" in _answer(slow[0])


def test_a_client_that_hangs_up_does_no_harm(server: Process) -> None:
    before = len(server.errors)
    for _ in range(5):
        with server.connect() as connection:
            connection.sendall(HEAD + IMAGE[:10])
    assert server.classify() == "grey-5"
    assert server.errors[before:] == []


def test_concurrent_requests_get_their_own_answers(server: Process) -> None:
    levels = [(13 + 26 * number) % 256 for number in range(100)]
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(server.classify, map(grey, levels)))
    assert labels == [f"grey-{min(9, int(level / 25.6))}" for level in levels]


def test_a_connection_that_is_kept_answers_without_delay(server: Process) -> None:
    """Nagle's algorithm and delayed acknowledgements together cost 40 ms a request."""
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        server.classify()
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[5] < 0.03


def test_a_500_is_explained_in_the_log_alone(server: Process) -> None:
    image = np.full((8, 8, 1), 200).tolist()
    response = server.http.post("/v1/models/fragile:predict", json={"instances": [image]})
    assert response.status_code == 500
    assert response.json() == {"error": "the server failed to answer; its log says why"}
    time.sleep(0.2)  # the log is written after the answer
    assert "indices element out of data bounds" in server.errors[-1]
    assert server.classify() == "grey-5"


def test_a_signal_that_comes_again_is_a_success_too(repository: Path) -> None:
    with running(str(repository / "grey")) as process:
        process.http.close()
        while process.alive:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        assert process.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_success(repository: Path, number: signal.Signals) -> None:
    with running(str(repository / "grey")) as process:
        assert process.lines[0] == "grey: version 1, 8x8x1 pixels, 10 labels"
        # The idle connection that is left must not hold the server back.
        assert process.http.get("/healthz").status_code == 200
        assert process.stop(number) == 0
        assert process.warnings[1:] == []  # grey/2 is refused


def test_who_comes_as_the_server_stops_is_answered(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kept connection and on a new one; both responses announce that they are the last."""
    monkeypatch.setattr(addresses, "LINGER", 1)

    async def main() -> None:
        server = await Server(ServerOptions(models=repository, port=0, grace=20)).__aenter__()
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEAD + IMAGE)
        assert b"connection: close" not in await reader.readuntil(b"\r\n\r\n")
        stopping = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0.2)  # it has begun to stop
        late, late_writer = await asyncio.open_connection(*address)
        for stream, its_writer in ((reader, writer), (late, late_writer)):
            its_writer.write(HEAD + IMAGE)
            answer = await stream.read()
            assert b"connection: close" in answer
            assert b"grey-5" in answer
            its_writer.close()
        await stopping

    asyncio.run(asyncio.wait_for(main(), 20))


def test_what_is_in_flight_is_finished_first(repository: Path) -> None:
    with running(str(repository / "grey")) as process, process.connect() as connection:
        connection.sendall(HEAD + IMAGE[:-1])
        assert process.classify() == "grey-5"  # so the other request has been accepted, too
        process.send_signal(signal.SIGTERM)
        while _accepts(process):
            time.sleep(0.05)
        connection.sendall(IMAGE[-1:])
        assert b"grey-5" in _answer(connection)


def test_what_never_ends_holds_the_server_no_longer_than_the_grace(repository: Path) -> None:
    large = {"b64": base64.b64encode(grey(130, (4000, 4000))).decode()}
    body = json.dumps({"signature_name": "serving_bytes", "instances": [large] * 300}).encode()
    head = f"POST /v1/models/grey:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    limit = ("--max-json-bytes", "32MiB")
    with (
        running(str(repository / "grey"), "--grace", "2", *limit) as process,
        process.connect() as half,
        process.connect() as long,
    ):
        half.sendall(HEAD + IMAGE[:-1])
        long.sendall(head.encode() + b"\r\n" + body)
        assert process.classify() == "grey-5"
        started = time.monotonic()
        assert process.stop() == 0
        assert 1 < time.monotonic() - started < 3.9  # and not once more for the engines
        for connection in (half, long):
            with HTTPResponse(connection) as response:
                response.begin()
                assert (response.status, response.getheader("Retry-After")) == (503, "1")
                assert "the server is stopping" in json.loads(response.read())["error"]
        assert not any("Traceback" in line for line in process.errors)


def test_a_load_that_takes_long_holds_the_server_no_longer_either(tmp_path: Path) -> None:
    write_version(tmp_path / "grey" / "1")
    with running(str(tmp_path), "--grace", "1", "--admin", "--poll", "0") as process:
        size = 2**36  # sparse: no space, and a minute of checksums
        file = {"sha256": "0" * 64, "bytes": size}
        version = write_version(
            tmp_path / "grey" / "2", files={"labels.txt": file, "model.onnx": file}
        )
        os.truncate(version / "labels.txt", size)
        with process.connect() as connection:
            load = b"POST /v2/repository/models/grey/load HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.sendall(load)
            end = time.monotonic() + 10
            while process.http.get("/v1/models/grey/versions/2").status_code == 404:
                assert time.monotonic() < end
                time.sleep(0.05)
            assert process.stop() == 0  # well within the 30 s that it has
        assert not any("Traceback" in line for line in process.errors)


def test_a_published_version_takes_over_without_a_restart(tmp_path: Path) -> None:
    write_version(tmp_path / "grey" / "1")
    with running(str(tmp_path)) as process:
        write_version(tmp_path / "grey" / ".new").rename(tmp_path / "grey" / "2")
        end = time.monotonic() + 10
        while process.http.get("/v1/models/grey/versions/2").status_code == 404:
            assert time.monotonic() < end
            time.sleep(0.05)
        write_version(tmp_path / "grey" / "3", b"broken")
        while not process.warnings:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "grey/3 refused: model.onnx does not load" in process.warnings[0]
        assert process.classify() == "grey-5"


def test_logs_that_nobody_reads_stop_nothing(repository: Path) -> None:
    """A full pipe once held the whole server up, after 161 lines of the access log."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "keras_cnns_serve.cli", str(repository / "grey")]
    options = ["--port", "0", "--access-log", "--grace", "1"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=write, text=True
    ) as process:
        os.close(write)
        try:
            assert process.stdout
            address = next(line for line in process.stdout if line.startswith("serving on "))
            with httpx.Client(base_url=address.split()[-1], timeout=10) as http:
                for _ in range(600):
                    assert http.get("/healthz").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            os.close(read)


def test_a_configuration_file_and_its_change(tmp_path: Path, repository: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f"[models.grey]\npath = '{repository}/grey'\n")
    options = ("--model_config_file", str(file), "--poll", "0.05", "--access-log")
    with running(*options) as process:
        assert process.classify() == "grey-5"
        file.write_text(f"[models.other]\npath = '{repository}/grey'\nlabels = {{ stable = 1 }}\n")
        end = time.monotonic() + 10
        while process.http.get("/v1/models/other/labels/stable").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        file.write_text("nonsense")
        while "is not TOML" not in process.errors[-1]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert process.http.get("/v1/models/other").status_code == 200
        logged = [json.loads(line) for line in process.errors if line.startswith("{")]
        assert (logged[0]["path"], logged[0]["status"]) == (CLASSIFY, 200)


def _answer(connection: socket.socket) -> bytes:
    """The body of the response, which may come in several pieces."""
    with HTTPResponse(connection) as response:
        response.begin()
        return response.read()


def _accepts(process: Process) -> bool:
    try:
        process.connect().close()
    except ConnectionError:
        return False
    return True


def test_neither_tensorflow_nor_keras_is_imported(repository: Path) -> None:
    with running(str(repository), python=("-X", "importtime")) as process:
        assert process.classify() == "grey-5"
        process.stop()
        modules = {line.rpartition("|")[2].strip() for line in process.errors}
    assert {"keras_cnns_serve.protocols.tfserving.rest", "onnxruntime", "PIL"} <= modules
    tops = {module.partition(".")[0] for module in modules}
    assert not tops & {"tensorflow", "keras", "keras_cnns", "keras_cnns_export", "torch", "jax"}
