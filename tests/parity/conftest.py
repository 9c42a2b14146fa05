"""These tests need torch, which `make test-parity` has in an environment of its own."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
