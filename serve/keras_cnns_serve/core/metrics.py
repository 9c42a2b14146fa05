"""What a version has done since it was loaded: counts, seconds and their distribution."""

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

# Seconds: from 10 microseconds to a minute and a half, as TensorFlow Serving's buckets.
LATENCIES = tuple(10e-6 * 1.8**power for power in range(28))
MOST_FRESH = 1000
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Total:
    """How often, and how many seconds in all."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Statistics:
    """What a version has done since it was loaded."""

    name: str
    version: int
    last_inference: float = 0.0  # seconds since the epoch; 0: none yet
    inferences: int = 0  # images
    executions: int = 0  # batches
    success: Total = Total()  # requests
    fail: Total = Total()
    queue: Total = Total()
    decode: Total = Total()
    compute: Total = Total()
    batches: Mapping[int, Total] = field(default_factory=dict)  # by size


class Histogram:
    """How values are distributed.

    Args:
        bounds: the upper ends of the buckets, ascending; one more takes what lies above.
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
        """How many values, and their sum."""
        return Total(sum(self.counts), self.sum)


class Recorder:
    """Counts for one version; safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Answered requests that are not counted yet: a request should not wait for the counting.
        self._fresh: deque[tuple[float, float, float, float]] = deque()
        self._last_inference = 0.0
        self._batches: dict[int, list[float]] = {}  # size -> [count, seconds]
        self.latency = Histogram(LATENCIES)  # of answered requests, from their arrival
        self.queue = Histogram(LATENCIES)
        self.decode = Histogram(LATENCIES)
        self.compute = Histogram(LATENCIES)
        self.batch_size = Histogram(SIZES)
        self.outcomes: Counter[str] = Counter()  # requests, by the name of google.rpc.Code
        self.failed_seconds = 0.0

    def ran(self, images: int, seconds: float) -> None:
        """Record a batch and the duration of its inference."""
        with self._lock:
            self._last_inference = time.time()
            self.batch_size.observe(images)
            entry = self._batches.setdefault(images, [0, 0.0])
            entry[0] += 1
            entry[1] += seconds

    def answered(self, seconds: float, queue: float, decode: float, compute: float) -> None:
        """Record an answered request and the time that each of its stages took, in seconds."""
        self._fresh.append((seconds, queue, decode, compute))
        if len(self._fresh) >= MOST_FRESH:
            self.settle()

    def settle(self) -> None:
        """Add the recorded requests to the statistics; call this before reading any of them."""
        histograms = (self.latency, self.queue, self.decode, self.compute)
        with self._lock:
            while self._fresh:
                self.outcomes["OK"] += 1
                for histogram, value in zip(histograms, self._fresh.popleft(), strict=True):
                    histogram.observe(value)

    def failed(self, code: str, seconds: float) -> None:
        """Record a request that failed."""
        with self._lock:
            self.outcomes[code] += 1
            self.failed_seconds += seconds

    def statistics(self, name: str, version: int) -> Statistics:
        """All of it, at one moment."""
        self.settle()
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
