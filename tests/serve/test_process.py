import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from keras_cnns_serve.process import raise_open_files
from tests.serve.conftest import publish, write_version
from tests.serve.engines.graphs import constant_graph, endless_graph
from tests.serve.processes import CLASSIFY, IMAGE, running


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_as_many_files_may_be_open_as_the_system_permits() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no shell to close descriptors")
def test_a_program_without_standard_streams_serves_and_ends(repository: Path) -> None:
    """Otherwise its sockets would get the file descriptors of the standard streams."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = f"{sys.executable} -m keras_cnns_serve.cli {repository / 'grey'}"
    command = f"exec {program} --port {port} --grpc-port 0 <&- >&- 2>&-"
    with subprocess.Popen(["sh", "-c", command]) as process, httpx.Client() as http:
        try:
            end = time.monotonic() + 30
            while True:
                assert time.monotonic() < end
                with contextlib.suppress(httpx.ConnectError):
                    answer = http.post(f"http://127.0.0.1:{port}{CLASSIFY}", content=IMAGE)
                    break
                time.sleep(0.05)
            assert "grey-5" in answer.text
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


OPENVINO = {"openvino": {"path": "model.onnx"}}  # which reads ONNX files, too


@pytest.mark.parametrize(
    ("model", "formats"),
    [(endless_graph, None), (constant_graph, None), (endless_graph, OPENVINO)],
    ids=["onnxruntime", "constant", "openvino"],
)
def test_a_server_stops_while_a_version_does_not_load(
    tmp_path: Path, model: Callable[[], bytes], formats: dict[str, Any] | None
) -> None:
    if formats:
        pytest.importorskip("openvino")
    write_version(tmp_path / "models" / "grey" / "1")
    options = {"formats": formats} if formats else {}
    hidden = publish(tmp_path / "2", {"model.onnx": model(), "model.bin": b""}, **options)
    with running(str(tmp_path / "models"), "--poll", "0.05", "--grace", "0") as server:
        hidden.rename(tmp_path / "models" / "grey" / "2")
        end = time.monotonic() + 20
        while "LOADING" not in server.http.get("/v1/models/grey").text:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.5)  # it has begun to run, or to be optimised
        assert "LOADING" in server.http.get("/v1/models/grey").text
        assert server.classify() == "grey-5"
    # OpenVINO forks when it is imported.
    assert [line for line in server.warnings if "skipping fork() handlers" not in line] == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows when signals are caught")
def test_a_server_stops_while_its_only_version_does_not_load(tmp_path: Path) -> None:
    write_version(tmp_path / "grey" / "1", endless_graph())
    command = [sys.executable, "-m", "keras_cnns_serve.cli", str(tmp_path), "--port", "0"]
    with subprocess.Popen([*command, "--grace", "0"], stderr=subprocess.PIPE) as process:
        try:
            status, caught = Path(f"/proc/{process.pid}/status"), 0
            end = time.monotonic() + 20
            while not caught >> (signal.SIGTERM - 1) & 1:
                assert time.monotonic() < end
                time.sleep(0.01)
                caught = int(status.read_text().partition("SigCgt:")[2].split()[0], 16)
            time.sleep(0.5)  # it has begun to load
            process.terminate()
            assert process.wait(30) == 0
            assert process.stderr
            assert process.stderr.read() == b""
        finally:
            process.kill()


LARGE_BLOCKS = """
import ctypes, os
from pathlib import Path
from keras_cnns_serve import process

process.return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

libc.free(libc.malloc(24 << 20))  # by default glibc raises its limit to this size
blocks = [libc.malloc(4 << 20) for _ in range(8)]
for block in blocks:
    ctypes.memset(block, 1, 4 << 20)
kept = libc.malloc(1000)  # the end of the heap
before = resident()
for block in blocks:
    libc.free(block)
print(before - resident() > 30 << 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is meant")
def test_large_blocks_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE_BLOCKS], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


INTERRUPTED = """
import signal, sys, threading
from keras_cnns_serve import process

def profile(frame, event, argument):
    if frame.f_code is threading.Thread.start.__code__:
        signal.raise_signal(signal.SIGTERM)

async def main(stop):
    sys.setprofile(profile)
    signal.raise_signal(signal.SIGTERM)
    await stop.wait()
    sys.setprofile(None)

process.run(main, grace=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no handlers of SIGTERM")
def test_a_signal_that_interrupts_the_handler_of_the_first_one_is_ignored() -> None:
    """For example, it interrupts the start of the thread that limits the time for stopping."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
