import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from keras_cnns_serve.process import raise_open_files
from tests.serve.processes import CLASSIFY, IMAGE


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
    """Its sockets would have the numbers of the streams."""
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
