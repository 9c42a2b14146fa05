"""Subjects of a benchmark, each in a process of its own, which run in turn.

A slow moment of the machine therefore affects all subjects, and a ratio compares two turns that
follow each other closely.
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
# The Python of an environment with PyTorch, which `make test-parity` creates.
PARITY_PYTHON = ROOT / ".venv-parity" / "bin" / "python"

Row = dict[str, Any]


def take_turns(run: Callable[[], Any]) -> None:
    """Run a subject in this process.

    First call `run` for warm-up and print an answer. Then call it for each line of standard input,
    and print its duration.
    """
    run()
    answer(0)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        answer(time.perf_counter() - start)


def answer(seconds: float) -> None:
    """Print the seconds of a turn, and the peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([seconds, peak]), flush=True)


class Subject:
    """The process of a subject."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.peak_bytes = 0

    def measure(self) -> float:
        """Let the process run a turn; return its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.listen()

    def listen(self) -> float:
        """Wait for the next answer of the process; return the seconds."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("["):  # other lines are messages of libraries
                seconds, self.peak_bytes = json.loads(line)
                return float(seconds)
        raise RuntimeError(
            f"the process {self._process.args!r} ended before its answer, with status "
            f"{self._process.wait()}"
        )


@contextmanager
def subject(python: str | Path, *arguments: str) -> Iterator[Subject]:
    """Start the process of a subject, wait for its warm-up, and end it after the block."""
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
    """Compute the ratio of each round; return the median, the minimum and the maximum."""
    values = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    figures = {"ratio": statistics.median(values), "low": values[0], "high": values[-1]}
    return {key: round(value, 3) for key, value in figures.items()}


def write_rows(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of a benchmark's table as JSON, unless `path` is None."""
    if path:
        path.write_text(json.dumps({"rows": rows}, indent=2) + "\n", "utf-8")
