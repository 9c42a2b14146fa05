import io

import pytest

from keras_cnns_serve.scoring.progress import Progress, spell_seconds


def test_at_most_a_line_each_second() -> None:
    now, stream = [100.0], io.StringIO()
    progress = Progress(10_000, 2_000, stream, lambda: now[0])
    for _ in range(8):
        now[0] += 0.25
        progress.add(50, 1)
    assert stream.getvalue().splitlines() == [
        "2,200 of 10,000 images (22.0%), 200 images/s, 39 s remaining, 4 failed",
        "2,400 of 10,000 images (24.0%), 200 images/s, 38 s remaining, 8 failed",
    ]
    assert (progress.seconds, progress.rate) == (2.0, 200.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (427, "7 min 7 s"), (10_920, "3 h 2 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert spell_seconds(seconds) == text
