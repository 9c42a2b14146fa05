"""A server process and plain HTTP, as a user has them."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 60


@contextmanager
def server(command: Sequence[str], models: Path) -> Iterator[str]:
    """Start the server on a free port, yield its address, stop it, and check its exit status."""
    arguments = [*command, str(models), "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            addresses = (re.search(r"serving on (http://\S+)", line) for line in process.stdout)
            yield next(match[1] for match in addresses if match)
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)
    assert process.returncode == 0


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        return json.load(response)


def post(url: str, body: bytes) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=SECONDS) as response:
        return json.load(response)
