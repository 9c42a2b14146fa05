"""Momentum and plain gradient descent on their way across a saddle point."""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_cnns.files import write_text
from keras_cnns.optimizers import Momentum
from keras_cnns.report import charts, page

START = (1.0, 1e-4)  # nearly on the ridge that leads into the saddle at (0, 0)
RATE = 0.05
STEPS = 300
LOWEST = -0.25  # at (0, 1) and (0, -1)
OPTIMIZERS = {"gradient descent": 0.0, "momentum 0.9": 0.9}


def value(x: float, y: float) -> float:
    """Return x^2 / 2 - y^2 / 2 + y^4 / 4: a saddle between two valleys."""
    return x**2 / 2 - y**2 / 2 + y**4 / 4


def descend(momentum: float, steps: int = STEPS) -> np.ndarray:
    """Return the way of an optimizer from `START`, float [steps + 1, 2]."""
    position = keras.Variable(np.array(START, "float32"))
    optimizer = Momentum(RATE, momentum)
    way = [START]
    for _ in range(steps):
        x, y = way[-1]
        optimizer.apply([ops.convert_to_tensor([x, y**3 - y], "float32")], [position])
        x, y = ops.convert_to_numpy(position)
        way.append((float(x), float(y)))
    return np.array(way)


def steps_to_escape(way: np.ndarray) -> int | None:
    """Return after how many steps nine tenths of the way down are done; None for never."""
    low = np.array([value(x, y) for x, y in way]) < 0.9 * LOWEST
    return int(low.argmax()) if low.any() else None


def write_saddle_page(path: Path) -> None:
    """Compare both, on one self-contained page."""
    ways = {name: descend(momentum) for name, momentum in OPTIMIZERS.items()}
    steps = list(range(STEPS + 1))
    heights = {name: (steps, [value(x, y) for x, y in way]) for name, way in ways.items()}
    paths = {name: (list(way[:, 0]), list(way[:, 1])) for name, way in ways.items()}
    rows = [
        (name, "never" if (escape := steps_to_escape(way)) is None else str(escape))
        for name, way in ways.items()
    ]
    sections = [
        page.Section(
            "Results",
            f"Steps until nine tenths of the way down are done, at the rate {RATE}.",
            page.table(("optimizer", "steps"), rows, numbers=1),
        ),
        page.Section(
            "The way",
            "The function is x^2 / 2 - y^2 / 2 + y^4 / 4; both begin at x = 1, y = 0.0001.",
            page.charts(
                [
                    charts.lines("Height", heights, x="step", y="value of the function"),
                    charts.lines("Seen from above", paths, x="x", y="y"),
                ]
            ),
        ),
    ]
    source = (
        "Sutskever et al. 2013, On the importance of initialization and momentum in deep learning"
    )
    title = "Momentum crosses a saddle where plain gradient descent lingers"
    write_text(path, page.render(title, source, "", sections))
