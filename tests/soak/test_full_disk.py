"""A disk that is full stops no answer: neither the logs nor a temporary file can be written."""

import resource
import time
from pathlib import Path

import pytest

from .clients import Load
from .conftest import Row
from .server import OPTIONS, running, seconds
from .test_answers import IMAGES, reload, scores

pytestmark = pytest.mark.soak


def test_full_disk(models: Path, row: Row) -> None:
    """Answer, log to /dev/full, and load a version, while no file can grow by a byte."""
    right = scores(models / "digits" / "1", IMAGES)
    no_space = {resource.RLIMIT_FSIZE: 0}
    with running(models, Path("/dev/full"), no_space, (*OPTIONS, "--access-log")) as server:
        with Load((server.http_port, server.grpc_port), IMAGES, right) as load:
            time.sleep(seconds(5))
            reload(server, 2)
            time.sleep(seconds(5))
        row["requests"], row["status"] = len(load.records), server.stop()
    assert load.problems() == []
    assert row["status"] == 0
