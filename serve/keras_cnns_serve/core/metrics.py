"""Metrics of a version since it was loaded: counts, seconds and histograms."""

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

# The bounds of TensorFlow Serving's histograms, in seconds: from 10 microseconds to 78 seconds.
_LATENCIES = tuple(10e-6 * 1.8**power for power in range(28))
_MAX_PENDING = 1000  # maximum number of requests that wait to be added to the histograms
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Total:
    """A number of events and the sum of their durations."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Statistics:
    """Metrics of a version since it was loaded."""

    name: str
    version: int
    last_inference: float = 0.0  # seconds since the epoch; 0: none yet
    inferences: int = 0  # number of images
    executions: int = 0  # number of batches
    success: Total = Total()  # this total and the following ones count requests
    fail: Total = Total()
    queue: Total = Total()
    decode: Total = Total()
    compute: Total = Total()
    batches: Mapping[int, Total] = field(default_factory=dict)  # by batch size


class Histogram:
    """A histogram of values.

    Args:
        bounds: the upper bounds of the buckets, ascending; one more bucket counts larger values.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def total(self) -> Total:
        """Return the number of values and their sum."""
        return Total(sum(self.counts), self.sum)


class Recorder:
    """Record the metrics of one version; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Answered requests wait here, and are added to the histograms later: appending to a deque
        # is fast and needs no lock.
        self._pending: deque[tuple[float, float, float, float]] = deque()
        self._last_inference = 0.0
        self._batches: dict[int, list[float]] = {}  # size -> [count, seconds]
        self.latency = Histogram(_LATENCIES)  # seconds of answered requests, from arrival to answer
        self.queue = Histogram(_LATENCIES)
        self.decode = Histogram(_LATENCIES)
        self.compute = Histogram(_LATENCIES)
        self.batch_size = Histogram(_SIZES)
        # Number of requests with each status; the keys are the names in google.rpc.Code.
        self.outcomes: Counter[str] = Counter()
        self.failed_seconds = 0.0

    def record_run(self, images: int, seconds: float) -> None:
        """Record a batch."""
        with self._lock:
            self._last_inference = time.time()
            self.batch_size.observe(images)
            entry = self._batches.setdefault(images, [0, 0.0])
            entry[0] += 1
            entry[1] += seconds

    def record_success(self, seconds: float, queue: float, decode: float, compute: float) -> None:
        """Record an answered request and the parts of its time."""
        self._pending.append((seconds, queue, decode, compute))
        if len(self._pending) >= _MAX_PENDING:
            self.flush()

    def flush(self) -> None:
        """Count pending requests; call this before you read the histograms or the outcomes."""
        histograms = (self.latency, self.queue, self.decode, self.compute)
        with self._lock:
            while self._pending:
                self.outcomes["OK"] += 1
                for histogram, value in zip(histograms, self._pending.popleft(), strict=True):
                    histogram.observe(value)

    def record_failure(self, code: str, seconds: float) -> None:
        """Record a request that failed."""
        with self._lock:
            self.outcomes[code] += 1
            self.failed_seconds += seconds

    def statistics(self, name: str, version: int) -> Statistics:
        """Return a consistent snapshot of the metrics."""
        self.flush()
        with self._lock:
            batches = {
                size: Total(int(count), seconds)
                for size, (count, seconds) in sorted(self._batches.items())
            }
            failures = sum(n for code, n in self.outcomes.items() if code != "OK")
            return Statistics(
                name,
                version,
                self._last_inference,
                sum(size * total.count for size, total in batches.items()),
                sum(total.count for total in batches.values()),
                self.latency.total,
                Total(failures, self.failed_seconds),
                self.queue.total,
                self.decode.total,
                self.compute.total,
                batches,
            )
