"""Subjects that take turns: each lives in a process of its own and runs when it is told to.

So a slow moment of the machine falls on all of them, and a ratio is made of neighbours.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PARITY_PYTHON = ROOT / ".venv-parity" / "bin" / "python"  # has PyTorch: `make test-parity` makes it

Row = dict[str, Any]


def take_turns(run: Callable[[], Any]) -> None:
    """Be a subject: run once to warm up, say so, then once for each line of standard input."""
    run()
    answer(0)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        answer(time.perf_counter() - start)


def answer(seconds: float) -> None:
    """Tell the seconds of a turn, and the most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([seconds, peak]), flush=True)


class Subject:
    """A process that is measured."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.peak_bytes = 0

    def measure(self) -> float:
        """Give it a turn; returns the seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.listen()

    def listen(self) -> float:
        """Wait for its next answer; returns the seconds."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("["):  # else a library's greeting
                seconds, self.peak_bytes = json.loads(line)
                return float(seconds)
        raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")


@contextmanager
def subject(python: str | Path, *arguments: str) -> Iterator[Subject]:
    """Start a process that calls `take_turns`, wait until it is warm, and end it at last."""
    process = subprocess.Popen(
        [str(python), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        warm = Subject(process)
        warm.listen()
        yield warm
        assert process.stdin is not None
        process.stdin.close()


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Row:
    """Return the median of the rounds' ratios, the lowest and the highest."""
    values = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    figures = {"ratio": statistics.median(values), "low": values[0], "high": values[-1]}
    return {key: round(value, 3) for key, value in figures.items()}


def write_rows(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what a benchmark found as JSON, where it was asked to."""
    if path:
        path.write_text(json.dumps({"rows": rows}, indent=2) + "\n", "utf-8")
