"""How long a written format takes for one image, on this machine."""

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_cnns_export.graph import Array, Predict

RUNS, SECONDS = 20, 1.0  # at most


def median_milliseconds(predict: "Predict", image: "Array") -> float:
    """The median time of `predict(image)` after a first call, which makes what is made once.

    Args:
        predict: a written format.
        image: uint8 [1, H, W, C].
    """
    predict(image)
    times: list[float] = []
    while len(times) < RUNS and sum(times) < SECONDS:
        begin = time.perf_counter()
        predict(image)
        times.append(time.perf_counter() - begin)
    return round(statistics.median(times) * 1000, 3)
