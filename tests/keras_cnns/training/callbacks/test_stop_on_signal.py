"""Signals to the process itself, for which pytest's workers and earlier handlers also listen."""

from pathlib import Path

from tests.own_process import run_tests


def test_in_a_process_of_its_own() -> None:
    assert "5 passed" in run_tests(Path(__file__).with_name("signals.py"))
