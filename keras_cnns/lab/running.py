"""Run experiments with several seeds, a cache of the measurements, and a time limit."""

import ast
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import keras

from keras_cnns.files import write_json, write_text
from keras_cnns.keras_internals import clear_session
from keras_cnns.lab import networks, surfaces
from keras_cnns.lab.experiment import Experiment, Measurements, Report, Settings

_PLAN = "lab.json"  # the settings and the number of seeds of each experiment that was started
_CACHE = "measurements"
_PACKAGES = ("keras", "tensorflow", "numpy", "keras-cnns")
_SHARED = (networks, surfaces)  # modules on which the measurements of several experiments depend
_EFFORTS = (1.0, 0.5, 0.25, 0.1)
_MIN_SEEDS = 3  # a t interval of two seeds is so wide that it decides almost nothing


@dataclass(frozen=True)
class Size:
    """The size of a run: the number of seeds, and the settings, which include the length."""

    seeds: int
    settings: Settings

    def seconds(self, experiment: Experiment) -> float:
        """Return the expected duration of an experiment in seconds, all seeds together."""
        seeds = 1 if experiment.deterministic else self.seeds
        scaled = (experiment.seconds - experiment.fixed_seconds) * self.settings.effort
        return seeds * (scaled + experiment.fixed_seconds)


@dataclass(frozen=True)
class State:
    """The progress of a run: what is running, and which fractions are finished."""

    experiment: str
    index: int  # index of the experiment, from 0
    experiments: int
    seed: int
    seeds: int
    fraction: float  # the finished fraction of the measurements of this seed
    what: str
    total: float  # the finished fraction of all experiments, weighted by their expected duration


def choose_size(
    experiments: Sequence[Experiment], data: str, seeds: int, minutes: float | None
) -> Size:
    """Return the largest size that is expected to fit into the time.

    If the time is short, the number of seeds is reduced first, down to three. Then the trainings
    are shortened. If no size fits, the smallest one is returned.

    Args:
        experiments: the experiments of the run.
        data: the images, a key of `networks.DATA`.
        seeds: the number of seeds if there is enough time.
        minutes: the time for all experiments; None sets no limit.
    """
    fewer = [n for n in range(seeds, 0, -1) if n >= min(seeds, _MIN_SEEDS)]
    sizes = [Size(n, Settings(data)) for n in fewer]
    sizes += [Size(fewer[-1], Settings(data, effort)) for effort in _EFFORTS[1:]]
    if minutes is None:
        return sizes[0]
    fitting = (s for s in sizes if sum(map(s.seconds, experiments)) <= 60 * minutes)
    return next(fitting, sizes[-1])


def run_experiments(
    experiments: Sequence[Experiment],
    size: Size,
    folder: Path,
    *,
    minutes: float | None = None,
    show: Callable[[State], None] = lambda state: None,
    log: Callable[[str], None] = print,
) -> bool:
    """Run all measurements that are not cached, and return whether all experiments are complete.

    A stopped run continues when it is started again, because finished seeds are in the cache.

    Args:
        experiments: the experiments, in the order of the run.
        size: the number of seeds, and the length of the trainings.
        folder: the folder of the cache and the plan.
        minutes: the time of the run. A measurement is started only if it is expected to end within
            this time. None sets no limit.
        show: called with the progress of the run, for example after each epoch.
        log: called with a line for each finished experiment.

    Raises:
        OSError: the folder cannot be written.
        ValueError: the images cannot be read.
    """
    start = time.monotonic()
    expected = [size.seconds(each) for each in experiments]
    complete = True
    for index, experiment in enumerate(experiments):
        seeds = 1 if experiment.deterministic else size.seeds
        _remember(folder, experiment, size)
        measured = 0
        for seed in range(seeds):
            if _read_measurements(folder, experiment, size.settings, seed) is not None:
                measured += 1
                continue
            left = None if minutes is None else 60 * minutes - (time.monotonic() - start)
            if left is not None and left < expected[index] / seeds:
                break

            def report(
                fraction: float, what: str, seed: int = seed, seeds: int = seeds, index: int = index
            ) -> None:
                done = sum(expected[:index]) + expected[index] * (seed + fraction) / seeds
                name = experiments[index].name
                total = done / sum(expected)
                show(State(name, index, len(experiments), seed, seeds, fraction, what, total))

            _measure(folder, experiment, size.settings, seed, report)
            measured += 1
        complete = complete and measured == seeds
        message = f"{experiment.name}: {measured} of {seeds} seeds are measured"
        if measured < seeds:
            message += "; the time is over, and the same command continues the run"
        log(message)
    return complete


def read_plan(folder: Path) -> dict[str, Size]:
    """Return the sizes of the experiments that were started in a folder, by their names.

    Raises:
        ValueError: no experiment was started there.
    """
    path = folder / _PLAN
    if not path.exists():
        raise ValueError(
            f"{path} does not exist, so that there are no measurements; to measure, run: "
            "keras-cnns lab run all --to DIR"
        )
    plan = json.loads(path.read_text("utf-8"))
    return {name: Size(each["seeds"], Settings(**each["settings"])) for name, each in plan.items()}


def read_all_measurements(folder: Path, experiment: Experiment, size: Size) -> list[Measurements]:
    """Return the cached measurements of an experiment, one for each finished seed."""
    seeds = 1 if experiment.deterministic else size.seeds
    each = (_read_measurements(folder, experiment, size.settings, seed) for seed in range(seeds))
    return [measurements for measurements in each if measurements is not None]


def _read_measurements(
    folder: Path, experiment: Experiment, settings: Settings, seed: int
) -> Measurements | None:
    """Return the cached measurements of one seed, or None if they have to be measured."""
    path = _cache_path(folder, experiment, settings, seed)
    if not path.exists():
        return None
    content: Measurements = json.loads(path.read_text("utf-8"))["measurements"]
    return content


def cache_key(experiment: Experiment, settings: Settings, seed: int) -> str:
    """Return a hash of everything that determines the measurements of one seed.

    The hash covers the settings, the seed, the backend, the versions of the packages, and the code
    that measures, both in the experiment's file and in the modules that experiments share.
    """
    content = {
        "source": [_source(experiment), *map(inspect.getsource, _SHARED)],
        "settings": asdict(settings),
        "seed": seed,
        "backend": keras.backend.backend(),
        "versions": _versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _measure(
    folder: Path, experiment: Experiment, settings: Settings, seed: int, report: Report
) -> None:
    """Run one seed, and write its measurements into the cache."""
    # The path contains a hash of the sources. It is computed before the run, because the sources
    # may be edited during the run.
    path = _cache_path(folder, experiment, settings, seed)
    clear_session()
    keras.utils.set_random_seed(seed)
    start = time.monotonic()
    report(0.0, "start")
    measurements = experiment.run(seed, settings, report)
    content = {
        "experiment": experiment.name,
        "seed": seed,
        "settings": asdict(settings),
        "versions": _versions(),
        "seconds": round(time.monotonic() - start, 1),
        "measurements": measurements,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content))


def _remember(folder: Path, experiment: Experiment, size: Size) -> None:
    """Write the size of an experiment into the plan."""
    path = folder / _PLAN
    folder.mkdir(parents=True, exist_ok=True)
    plan = json.loads(path.read_text("utf-8")) if path.exists() else {}
    plan[experiment.name] = {"seeds": size.seeds, "settings": asdict(size.settings)}
    write_json(path, plan)


def _cache_path(folder: Path, experiment: Experiment, settings: Settings, seed: int) -> Path:
    return (
        folder / _CACHE / f"{experiment.name}-{seed}-{cache_key(experiment, settings, seed)}.json"
    )


def _source(experiment: Experiment) -> dict[str, str]:
    """Return the code of `run` and of everything that it uses in its file, as name -> code.

    The code has no comments. Texts, figures and smallest effects are not included, so that cached
    measurements stay valid if one of them is edited.
    """
    module = ast.parse(inspect.getsource(sys.modules[experiment.run.__module__]))
    defined = {name: node for node in module.body for name in _defined_names(node)}
    used: dict[str, str] = {}
    waiting = [experiment.run.__name__]
    while waiting:
        name = waiting.pop()
        if name in defined and name not in used:
            used[name] = ast.unparse(defined[name])
            waiting += [each.id for each in ast.walk(defined[name]) if isinstance(each, ast.Name)]
    return used


def _defined_names(statement: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [each.asname or each.name for each in statement.names]
    return [
        each.id
        for each in ast.walk(statement)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    ]


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _PACKAGES}
