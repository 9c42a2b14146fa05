"""Experiment 6: gradient descent, heavy ball and Nesterov on surfaces, and on a network."""

import math
from collections.abc import Sequence

import numpy as np

from keras_cnns.keras_internals import clear_session
from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.networks import fit, lab_recipe
from keras_cnns.lab.surfaces import Best, Function, Method, find_best, trajectory
from keras_cnns.optimizers.momentum import momentum_step
from keras_cnns.report import charts
from keras_cnns.report.page import Animation, Chart

_CONDITIONS = tuple(float(each) for each in np.geomspace(2, 2000, 21).round(1))
_CONDITION = 100.0  # condition number for which the effect is measured
_KINDS = ("gradient descent", "heavy ball", "Nesterov")
_MOMENTA = (*np.linspace(0.05, 0.9, 18), 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
_MAX_STEPS = 50_000
_NETWORK_MOMENTA = (0.0, 0.5, 0.9, 0.99)
_NETWORK_SEEDS = 3
_NETWORK_EPOCHS = 20


class Quadratic:
    """The function condition x^2 / 2 + y^2 / 2, whose minimum is (0, 0)."""

    start, goal = np.array([1.0, 1.0]), np.zeros(2)
    limits = ((-2.2, 2.2), (-0.5, 1.15))

    def __init__(self, condition: float) -> None:
        self.condition = condition

    def value(self, points: np.ndarray) -> np.ndarray:
        """Return the function's values, [..., 2] -> [...]."""
        return np.asarray((self.condition * points[..., 0] ** 2 + points[..., 1] ** 2) / 2)

    def gradient(self, points: np.ndarray) -> np.ndarray:
        """Return the function's gradients, [..., 2] -> [..., 2]."""
        return np.asarray(points * np.array([self.condition, 1.0]))


class Rosenbrock:
    """The function (1 - x)^2 + 100 (y - x^2)^2: a bent valley with its minimum at (1, 1)."""

    start, goal = np.array([-1.2, 1.0]), np.ones(2)
    limits = ((-1.6, 1.6), (-0.6, 2.0))

    def value(self, points: np.ndarray) -> np.ndarray:
        """Return the function's values, [..., 2] -> [...]."""
        x, y = points[..., 0], points[..., 1]
        return np.asarray((1 - x) ** 2 + 100 * (y - x**2) ** 2)

    def gradient(self, points: np.ndarray) -> np.ndarray:
        """Return the function's gradients, [..., 2] -> [..., 2]."""
        x, y = points[..., 0], points[..., 1]
        across = 200 * (y - x**2)
        return np.stack([-2 * (1 - x) - 2 * x * across, across], axis=-1)


class TwoMinima:
    """The function 5 x^2 + y^4 / 4 - y^2 / 2 + 0.15 y; the minimum near y = -1 is deeper."""

    start = np.array([0.3, 1.7])
    limits = ((-0.6, 0.6), (-1.7, 1.9))

    def value(self, points: np.ndarray) -> np.ndarray:
        """Return the function's values, [..., 2] -> [...]."""
        x, y = points[..., 0], points[..., 1]
        return np.asarray(5 * x**2 + y**4 / 4 - y**2 / 2 + 0.15 * y)

    def gradient(self, points: np.ndarray) -> np.ndarray:
        """Return the function's gradients, [..., 2] -> [..., 2]."""
        x, y = points[..., 0], points[..., 1]
        return np.stack([10 * x, y**3 - y + 0.15], axis=-1)


def best_rate(kind: str, condition: float) -> tuple[float, float, float]:
    """Return the best convergence rate on a quadratic, and its learning rate and momentum.

    The curvatures are 1 and `condition`. In the long run, each step multiplies the distance to the
    minimum by the convergence rate (Lessard et al. 2016, arXiv:1408.3595, proposition 1).
    """
    root = math.sqrt(condition)
    if kind == "gradient descent":
        return (condition - 1) / (condition + 1), 2 / (condition + 1), 0.0
    if kind == "heavy ball":
        return (root - 1) / (root + 1), 4 / (root + 1) ** 2, ((root - 1) / (root + 1)) ** 2
    root = math.sqrt(3 * condition + 1)
    return 1 - 2 / root, 4 / (3 * condition + 1), (root - 2) / (root + 2)


def _measured_rate(kind: str, condition: float) -> float:
    """Return the convergence rate of the late steps of a descent with the best settings."""
    rate, learning_rate, momentum = best_rate(kind, condition)
    # Late steps, in which the distance falls from 1e-60 to 1e-120; much smaller numbers underflow.
    first, last = (math.ceil(exponent * math.log(10) / -math.log(rate)) for exponent in (60, 120))
    method = Method(momentum, nesterov=kind == "Nesterov")
    quadratic = Quadratic(condition)
    points = trajectory(quadratic.gradient, quadratic.start, learning_rate, method, last)
    distances = np.linalg.norm(points[[first, last]], axis=1)
    return float((distances[1] / distances[0]) ** (1 / (last - first)))


def _search(
    surface: Quadratic | Rosenbrock, learning_rates: np.ndarray, tolerance: float
) -> Measurements:
    """Return the best setting of each kind: its steps, learning rate and momentum."""

    def reached(points: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(points - surface.goal, axis=-1) < tolerance)

    def best(gradient: Function, method: Method, max_steps: int) -> Best:
        return find_best(gradient, surface.start, learning_rates, method, reached, max_steps)

    found: Measurements = {}
    for kind in _KINDS:
        momenta = (0.0,) if kind == "gradient descent" else _MOMENTA
        fewest: float = _MAX_STEPS
        for momentum in map(float, momenta):
            each = best(surface.gradient, Method(momentum, kind == "Nesterov"), int(fewest))
            if not math.isnan(each.steps) and each.steps < found.get(kind, {}).get("steps", 1e9):
                fewest = each.steps
                found[kind] = {
                    "steps": math.nan if each.at_edge else each.steps,
                    "learning_rate": each.learning_rate,
                    "momentum": momentum,
                }
        found.setdefault(kind, {"steps": math.nan, "learning_rate": math.nan, "momentum": math.nan})
    return found


def _path(surface: Quadratic | Rosenbrock, kind: str, setting: Measurements) -> list[list[float]]:
    method = Method(setting["momentum"], kind == "Nesterov")
    steps = _drawn_steps(setting)
    points = trajectory(surface.gradient, surface.start, setting["learning_rate"], method, steps)
    shown: list[list[float]] = points[:: _stride(steps)].tolist()
    return shown


def _drawn_steps(setting: Measurements) -> int:
    return int(min(setting["steps"], 2000))


def _stride(steps: int) -> int:
    """Return the number of steps from one point of a drawn path to the next."""
    return max(1, steps // 400)


def _train(settings: Settings, report: Report) -> dict[str, list[list[float]]]:
    """Return the training losses of a network, momentum -> a curve for each seed."""
    curves: dict[str, list[list[float]]] = {str(momentum): [] for momentum in _NETWORK_MOMENTA}
    done, total = 0, _NETWORK_SEEDS * len(_NETWORK_MOMENTA)
    for seed in range(_NETWORK_SEEDS):
        for momentum in _NETWORK_MOMENTA:
            clear_session()
            recipe = lab_recipe(
                settings,
                seed,
                "model.name=resnet8",
                f"training.epochs={settings.scaled(_NETWORK_EPOCHS, at_least=4)}",
                f"optimizer.momentum={momentum}",
                "optimizer.learning_rate=0.02",
                "optimizer.schedule=constant",
                "optimizer.warmup_epochs=0",
            )
            what = f"resnet8 with momentum {momentum}, seed {seed + 1} of {_NETWORK_SEEDS}"
            report(0.3 + 0.7 * done / total, what)
            curves[str(momentum)].append(fit(recipe, _ignore, validate=False)["loss"])
            done += 1
    return curves


def _ignore(fraction: float, what: str) -> None:
    """Report nothing: a training takes a few seconds."""


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    report(0.0, "rates on quadratics")
    rates = {kind: [_measured_rate(kind, each) for each in _CONDITIONS] for kind in _KINDS}
    report(0.1, "search on quadratics")
    quadratic, rosenbrock = Quadratic(_CONDITION), Rosenbrock()
    on_quadratic = _search(quadratic, np.geomspace(0.01, 4.2, 200) / _CONDITION, 1e-6)
    report(0.2, "search in Rosenbrock's valley")
    in_valley = _search(rosenbrock, np.geomspace(1e-5, 1e-2, 120), 1e-5)
    minima = TwoMinima()
    methods = [Method(), Method(0.5), Method(0.9), Method(0.9, nesterov=True)]
    return {
        "rates": rates,
        "quadratic": on_quadratic,
        "valley": in_valley,
        "paths": {
            "quadratic": {kind: _path(quadratic, kind, on_quadratic[kind]) for kind in _KINDS},
            "valley": {kind: _path(rosenbrock, kind, in_valley[kind]) for kind in _KINDS},
            "two minima": {
                method.name: trajectory(minima.gradient, minima.start, 0.03, method, 400).tolist()
                for method in methods
            },
        },
        "network": _train(settings, report),
    }


def _ratio(found: Measurements, kind: str) -> float:
    return float(found["gradient descent"]["steps"] / found[kind]["steps"])


def _charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    measured = measurements[0]
    rates: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for kind in _KINDS:
        theory = [1 - best_rate(kind, condition)[0] for condition in _CONDITIONS]
        rates[f"{kind}, closed form"] = (_CONDITIONS, theory)
        rates[f"{kind}, measured"] = (_CONDITIONS, [1 - rate for rate in measured["rates"][kind]])
    paths = measured["paths"]
    return [
        charts.lines(
            "Convergence rate on a quadratic by condition number",
            rates,
            x="condition number",
            y="1 - convergence rate",
            log=True,
            log_x=True,
            points=[f"{kind}, measured" for kind in _KINDS],
        ),
        charts.contours(
            f"Paths on a quadratic with condition number {_CONDITION:g}",
            Quadratic(_CONDITION).value,
            Quadratic.limits,
            paths["quadratic"],
        ),
        charts.contours(
            "Paths in Rosenbrock's valley", Rosenbrock().value, Rosenbrock.limits, paths["valley"]
        ),
        charts.contours(
            "Paths on a surface with two minima, learning rate 0.03",
            TwoMinima().value,
            TwoMinima.limits,
            paths["two minima"],
        ),
        charts.mean_lines(
            "Training loss of ResNet-8 with the same learning rate",
            {f"momentum {momentum}": each for momentum, each in measured["network"].items()},
            x="epoch",
            y="training loss",
            log=True,
        ),
    ]


def _animations(measurements: Sequence[Measurements]) -> list[Animation]:
    measured = measurements[0]
    surfaces: dict[str, tuple[str, Quadratic | Rosenbrock | TwoMinima]] = {
        "quadratic": (
            f"Descent on a quadratic with condition number {_CONDITION:g}",
            Quadratic(_CONDITION),
        ),
        "valley": ("Descent in Rosenbrock's valley", Rosenbrock()),
        "two minima": ("Descent on a surface with two minima, learning rate 0.03", TwoMinima()),
    }

    def stride(key: str, name: str) -> int:
        return _stride(_drawn_steps(measured[key][name])) if key in measured else 1

    return [
        charts.animate_contours(
            title,
            surface.value,
            surface.limits,
            {name: (stride(key, name), path) for name, path in measured["paths"][key].items()},
        )
        for key, (title, surface) in surfaces.items()
    ]


def _table(measured: Measurements) -> dict[str, dict[str, float]]:
    rows = {}
    for kind in _KINDS:
        rate, _, momentum = best_rate(kind, _CONDITION)
        rows[kind] = {
            "steps, quadratic": measured["quadratic"][kind]["steps"],
            "learning rate": measured["quadratic"][kind]["learning_rate"],
            "momentum": measured["quadratic"][kind]["momentum"],
            "momentum, closed form": momentum,
            "convergence rate, closed form": rate,
            "steps, Rosenbrock": measured["valley"][kind]["steps"],
            "momentum, Rosenbrock": measured["valley"][kind]["momentum"],
        }
    return rows


def _findings(measurements: Sequence[Measurements]) -> list[str]:
    measured = measurements[0]
    errors = [
        abs(rate - best_rate(kind, condition)[0]) / (1 - best_rate(kind, condition)[0])
        for kind, each in measured["rates"].items()
        for condition, rate in zip(_CONDITIONS, each, strict=True)
    ]
    ends = {name: path[-1][1] for name, path in measured["paths"]["two minima"].items()}
    deeper = [name for name, y in ends.items() if y < 0]
    last = {name: np.mean([curve[-1] for curve in c]) for name, c in measured["network"].items()}
    lowest = min(last, key=lambda name: last[name])
    return [
        'The measured values of "1 - convergence rate" differ from the closed forms by at most '
        f"{max(errors):.1%}, over all condition numbers.",
        "On the surface with two minima, "
        + (
            f'only "{" and ".join(deeper)}" passes the shallow minimum and ends in the deeper one.'
            if len(deeper) == 1
            else f"{len(deeper)} methods pass the shallow minimum and end in the deeper one: "
            f"{'; '.join(deeper)}."
            if deeper
            else "every method ends in the shallow minimum, which is nearer to the start."
        ),
        f"In the network, a momentum of {lowest} leads to the lowest final training loss "
        f"({last[lowest]:.2g}). The learning rate is the same for every momentum. With momentum m, "
        "each gradient acts for about 1 / (1 - m) steps. A larger momentum therefore also "
        "means a larger step. For this reason, the figure of the network is only an illustration, "
        "and the verdict does not use it.",
    ]


EXPERIMENT = Experiment(
    number=6,
    name="momentum",
    claim="On ill-conditioned surfaces, gradient descent with momentum (heavy ball, Nesterov) "
    "needs fewer steps than gradient descent without momentum, if each method has its own best "
    "settings.",
    source="Sutskever et al. 2013, On the importance of initialization and momentum in deep "
    "learning, section 2; Polyak 1964; Lessard et al. 2016 (arXiv:1408.3595), proposition 1",
    varied="The method, the condition number of the quadratic (2 to 2,000), and the surface: a "
    "quadratic, Rosenbrock's valley, and a surface with two minima. As an illustration, a ResNet-8 "
    "is trained with several values of the momentum.",
    fixed="The start point on each surface. On the quadratic and in Rosenbrock's valley, a search "
    "finds the best learning rate and the best momentum of each method. The learning "
    "rate of the ResNet-8 is the same for every momentum.",
    measured="The number of steps until the distance to the minimum is below 1e-6 (on the "
    f"quadratic with condition number {_CONDITION:g}) or 1e-5 (in Rosenbrock's valley), and the "
    "convergence rate on the quadratics. The convergence rate is the factor by which each of the "
    "late steps of a descent multiplies the distance to the minimum.",
    look_at="Compare the slopes of the lines in the first figure. The figure shows 1 minus "
    "the convergence rate, which is the fraction of the distance that one step removes. For "
    "gradient descent, this fraction is inversely proportional to the condition number. For the "
    "other methods, it is inversely proportional to the square root of the condition number.",
    larger_run="The verdict uses no random numbers and does not depend on the length of the run. "
    "Therefore, neither more seeds nor a longer run would change it. With a condition number near "
    "1, the methods differ little.",
    effects=(
        Effect(
            "steps of gradient descent divided by steps of heavy ball on the quadratic",
            " times",
            2.5,  # a quarter of the square root of the condition number
            lambda measured: _ratio(measured["quadratic"], "heavy ball"),
        ),
        Effect(
            "steps of gradient descent divided by steps of Nesterov on the quadratic",
            " times",
            1.5,  # a quarter of 5.9, the ratio in theory
            lambda measured: _ratio(measured["quadratic"], "Nesterov"),
        ),
        Effect(
            "steps of gradient descent divided by steps of heavy ball in Rosenbrock's valley",
            " times",
            2.5,
            lambda measured: _ratio(measured["valley"], "heavy ball"),
        ),
    ),
    formula="heavy ball:  v <- momentum v + g;  w <- w - learning rate v\n"
    "Nesterov:    v <- momentum v + g;  w <- w - learning rate (g + momentum v)\n"
    "Best convergence rates with condition number k:\n"
    "gradient descent (k - 1) / (k + 1);  heavy ball (sqrt(k) - 1) / (sqrt(k) + 1);\n"
    "Nesterov 1 - 2 / sqrt(3 k + 1)",
    implementation=(momentum_step, best_rate),
    questions=(
        "Why can the learning rate of heavy ball be almost twice the learning rate of gradient "
        "descent?",
        "Why does the path of heavy ball overshoot the minimum of the quadratic, although heavy "
        "ball needs fewer steps?",
        "In the figure of the network, momentum 0.99 has the same learning rate as the other "
        "values. How would its training loss change if its learning rate were divided by 10?",
    ),
    run=_run,
    charts=_charts,
    table=_table,
    findings=_findings,
    animations=_animations,
    seconds=110,
    fixed_seconds=50,
    deterministic=True,
)
