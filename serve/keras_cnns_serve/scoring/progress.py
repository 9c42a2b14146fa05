"""Report the progress of a long run on stderr."""

import time
from collections.abc import Callable
from typing import TextIO

_INTERVAL = 1.0  # seconds between two lines


class Progress:
    """Print at most once a second: number of images, images per second and remaining time.

    Args:
        total: the number of images.
        done: the number of images that an earlier run has scored.
        stream: the stream to which the lines are printed.
        clock: returns the time in seconds.
    """

    def __init__(
        self, total: int, done: int, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._before = done
        self._done = done
        self._failed = 0
        self._stream = stream
        self._clock = clock
        self._started = self._printed = clock()

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._started

    @property
    def rate(self) -> float:
        """Return the images per second of this run, without the images of an earlier run."""
        return (self._done - self._before) / max(self.seconds, 1e-9)

    def add(self, images: int, failed: int) -> None:
        """Count images, and print a line if the last line is at least a second old."""
        self._done += images
        self._failed += failed
        now = self._clock()
        if now - self._printed >= _INTERVAL:
            self._printed = now
            print(self._line(), file=self._stream, flush=True)

    def _line(self) -> str:
        rate = self.rate
        parts = [
            f"{self._done:,} of {self._total:,} images ({self._done / self._total:.1%})",
            f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.1f} images/s",
            f"{spell_seconds((self._total - self._done) / rate)} remaining" if rate else "",
            f"{self._failed:,} failed" if self._failed else "",
        ]
        return ", ".join(part for part in parts if part)


def spell_seconds(seconds: float) -> str:
    """Return a duration as text, such as `42 s`, `7 min 7 s` or `3 h 2 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
