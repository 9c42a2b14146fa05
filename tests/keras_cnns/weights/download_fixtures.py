"""A server of published weights, and empty caches, for tests of downloads."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from file_server import FileServer, serving

from keras_cnns.weights.download import MIRRORS, OFFLINE


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the caches `keras`, `torch` and `hub`, which are empty."""
    for variable, name in (("KERAS_HOME", "keras"), ("TORCH_HOME", "torch"), ("HF_HOME", "hub")):
        monkeypatch.setenv(variable, str(tmp_path / "caches" / name))
    for variable in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", OFFLINE):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "caches"


@pytest.fixture
def server(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror of every publisher, without files."""
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    # Both libraries read the proxies at their first request in a process.
    monkeypatch.setattr(urllib.request, "_opener", None)
    huggingface_hub.close_session()
    # Otherwise the first request goes to huggingface.co.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    with serving() as found:
        for variable, _ in MIRRORS.values():
            monkeypatch.setenv(variable, found.url)
        yield found
