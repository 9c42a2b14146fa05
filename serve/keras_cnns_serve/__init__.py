"""A small inference server for image classifiers: it serves a repository of exported models."""

from importlib import import_module
from typing import Any

_MODULES = {"Server": "compose", "ServerOptions": "options", "Target": "core.prediction"}
__all__ = ["Server", "ServerOptions", "Target"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `--help` is fast."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
