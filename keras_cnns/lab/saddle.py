"""Momentum against plain gradient descent on a saddle point."""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_cnns.files import write_text
from keras_cnns.optimizers import Momentum
from keras_cnns.report import charts, page

START = (1.0, 1e-4)  # almost on the ridge that leads to the saddle point (0, 0)
_LEARNING_RATE = 0.05
_STEPS = 300
MINIMUM = -0.25  # at (0, 1) and (0, -1)
OPTIMIZERS = {"gradient descent": 0.0, "momentum 0.9": 0.9}


def value(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    """Return x^2 / 2 - y^2 / 2 + y^4 / 4: a saddle point between two minima."""
    return np.asarray(x**2 / 2 - y**2 / 2 + y**4 / 4)


def descend(momentum: float, steps: int = _STEPS) -> np.ndarray:
    """Return the trajectory of an optimizer from `START`, float [steps + 1, 2]."""
    position = keras.Variable(np.array(START, "float32"))
    optimizer = Momentum(_LEARNING_RATE, momentum)
    trajectory = [START]
    for _ in range(steps):
        x, y = trajectory[-1]
        optimizer.apply([ops.convert_to_tensor([x, y**3 - y], "float32")], [position])
        x, y = ops.convert_to_numpy(position)
        trajectory.append((float(x), float(y)))
    return np.array(trajectory)


def steps_to_escape(trajectory: np.ndarray) -> int | None:
    """Return the number of steps until the value is below 0.9 `MINIMUM`; None if it never is."""
    has_escaped = value(*trajectory.T) < 0.9 * MINIMUM
    return int(has_escaped.argmax()) if has_escaped.any() else None


def write_saddle_page(path: Path) -> None:
    """Write a self-contained page that compares the optimizers."""
    trajectories = {name: descend(momentum) for name, momentum in OPTIMIZERS.items()}
    steps = range(_STEPS + 1)
    values = {name: (steps, value(*each.T)) for name, each in trajectories.items()}
    paths = {name: tuple(each.T) for name, each in trajectories.items()}
    rows = [
        (name, "never" if (escape := steps_to_escape(each)) is None else str(escape))
        for name, each in trajectories.items()
    ]
    sections = [
        page.Section(
            "Results",
            f"The number of steps until the value is below {0.9 * MINIMUM:g}, nine tenths of the "
            f"minimum, with the learning rate {_LEARNING_RATE}.",
            [page.Table(("optimizer", "steps"), rows, numbers=1)],
        ),
        page.Section(
            "Trajectories",
            "The function is x^2 / 2 - y^2 / 2 + y^4 / 4. Both optimizers start at x = 1, "
            "y = 0.0001.",
            [
                page.Charts(
                    [
                        charts.lines("Value of the function", values, x="step", y="value"),
                        charts.lines("Position", paths, x="x", y="y"),
                    ]
                )
            ],
        ),
    ]
    source = (
        "Sutskever et al. 2013, On the importance of initialization and momentum in deep learning"
    )
    title = "Momentum escapes a saddle point sooner than plain gradient descent"
    write_text(path, page.render(title, source, sections))
