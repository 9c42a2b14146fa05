"""Run experiments with several seeds, within a time limit."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from keras_cnns.files import write_json
from keras_cnns.lab.experiment import Experiment, Measurements, Settings
from keras_cnns.lab.measuring import read_measurements
from keras_cnns.lab.workers import Seed, measure_all
from keras_cnns.runs.lock import locked

_PLAN = "lab.json"  # the settings and the number of seeds of each experiment that was started
_EFFORTS = (1.0, 0.5, 0.25, 0.1)
_TIME_IS_OVER = "; the time is over, and the same command continues the run"
# Maximum of the finished fraction of a seed, until its measurements are in the cache.
_UNFINISHED = 0.999
_MIN_SEEDS = 3  # a t interval of two seeds is so wide that it decides almost nothing


@dataclass(frozen=True)
class Size:
    """The size of a run: the number of seeds, and the settings, which include the length."""

    seeds: int
    settings: Settings

    def seeds_of(self, experiment: Experiment) -> int:
        """Return the number of seeds of an experiment; a deterministic one needs a single seed."""
        return 1 if experiment.deterministic else self.seeds

    def seconds_of_a_seed(self, experiment: Experiment) -> float:
        """Return the expected seconds of one seed of an experiment on one core."""
        scaled = (experiment.seconds - experiment.fixed_seconds) * self.settings.effort
        return scaled + experiment.fixed_seconds

    def seconds(self, experiment: Experiment) -> float:
        """Return the expected seconds of an experiment on one core, for all seeds together."""
        return self.seeds_of(experiment) * self.seconds_of_a_seed(experiment)


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
    experiments: Sequence[Experiment],
    data: str,
    seeds: int,
    minutes: float | None,
    processes: int = 1,
) -> Size:
    """Return the largest size that is expected to fit into the time.

    If the time is short, the number of seeds is reduced first, down to three, and then the length
    of the trainings. If no size fits, the smallest one is returned.

    Args:
        experiments: the experiments of the run.
        data: the images, a key of `networks.DATA`.
        seeds: the number of seeds if there is enough time.
        minutes: the time for all experiments; None sets no limit.
        processes: the number of seeds that are measured at the same time.
    """
    fewer = [n for n in range(seeds, 0, -1) if n >= min(seeds, _MIN_SEEDS)]
    sizes = [Size(n, Settings(data)) for n in fewer]
    sizes += [Size(fewer[-1], Settings(data, effort)) for effort in _EFFORTS[1:]]
    if minutes is None:
        return sizes[0]
    fitting = (s for s in sizes if duration(experiments, s, processes) <= 60 * minutes)
    return next(fitting, sizes[-1])


def duration(experiments: Sequence[Experiment], size: Size, processes: int) -> float:
    """Return the longest time that a run can take, in seconds, if `Experiment.seconds` is right.

    Until the last seed starts, all processes measure. Then one process measures the last seed, and
    in the worst case, this is the longest one (Graham 1969).
    """
    longest = max(size.seconds_of_a_seed(each) for each in experiments)
    whole = sum(size.seconds(each) for each in experiments)
    return min(whole, whole / processes + longest * (1 - 1 / processes))


def run_experiments(
    experiments: Sequence[Experiment],
    size: Size,
    folder: Path,
    *,
    minutes: float | None = None,
    processes: int = 1,
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
        processes: the number of seeds that are measured at the same time (see `measure_all`).
        show: called with the progress of the run, for example after each epoch.
        log: called with a line for each finished experiment.

    Raises:
        OSError: the folder cannot be written.
        ValueError: the images cannot be read.
    """
    begin = time.monotonic()
    wanted = {each.name: size.seeds_of(each) for each in experiments}
    expected = {each.name: size.seconds_of_a_seed(each) for each in experiments}
    whole = sum(expected[name] * count for name, count in wanted.items())
    # The finished fraction of each seed.
    fractions = {name: [0.0] * count for name, count in wanted.items()}
    waiting = {name: set(range(count)) for name, count in wanted.items()}
    pace = _Pace()

    def close(name: str, seed: int) -> None:
        """Log an experiment when none of its seeds waits any longer."""
        waiting[name].discard(seed)
        if not waiting[name]:
            measured = sum(fraction == 1 for fraction in fractions[name])
            end = "" if measured == wanted[name] else _TIME_IS_OVER
            log(f"{name}: {measured} of {wanted[name]} seeds are measured{end}")

    def to_measure() -> Iterator[Seed]:
        for experiment in experiments:
            name = experiment.name
            _remember(folder, experiment, size)
            for seed in range(wanted[name]):
                cached = read_measurements(folder, experiment, size.settings, seed) is not None
                ends = time.monotonic() - begin + pace.factor * expected[name]
                if cached:
                    fractions[name][seed] = 1.0
                if cached or (minutes is not None and ends > 60 * minutes):
                    close(name, seed)
                    continue
                yield Seed(experiment, size.settings, seed, folder)

    def report(each: Seed, fraction: float, what: str) -> None:
        name = each.experiment.name
        fractions[name][each.seed] = min(fraction, _UNFINISHED)
        total = sum(expected[name] * sum(done) for name, done in fractions.items()) / whole
        index = experiments.index(each.experiment)
        counts = (index, len(experiments), each.seed, wanted[name])
        show(State(name, *counts, fraction, what, total))

    processes = min(processes, sum(wanted.values()))
    for each, seconds in measure_all(to_measure(), processes, report):
        name = each.experiment.name
        fractions[name][each.seed] = 1.0
        pace.add(seconds, expected[name])
        close(name, each.seed)
    return all(fraction == 1 for seeds in fractions.values() for fraction in seeds)


class _Pace:
    """The measured duration of finished seeds divided by their expected duration, at least 1."""

    def __init__(self) -> None:
        self._measured = self._expected = 0.0

    def add(self, measured: float, expected: float) -> None:
        """Add a finished measurement; both durations are in seconds."""
        self._measured += measured
        self._expected += expected

    @property
    def factor(self) -> float:
        """The quotient; 1 before the first measurement."""
        return max(1.0, self._measured / self._expected) if self._expected else 1.0


def read_plan(folder: Path) -> dict[str, Size]:
    """Return the sizes of the experiments that were started in a folder, by their names.

    Raises:
        ValueError: no experiment was started there.
    """
    path = folder / _PLAN
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: the directory contains no measurements. To measure, run: "
            "keras-cnns lab run all --to DIR"
        )
    plan = json.loads(path.read_text("utf-8"))
    return {name: Size(each["seeds"], Settings(**each["settings"])) for name, each in plan.items()}


def read_all_measurements(folder: Path, experiment: Experiment, size: Size) -> list[Measurements]:
    """Return the cached measurements of an experiment, one for each finished seed."""
    seeds = size.seeds_of(experiment)
    each = (read_measurements(folder, experiment, size.settings, seed) for seed in range(seeds))
    return [measurements for measurements in each if measurements is not None]


def _remember(folder: Path, experiment: Experiment, size: Size) -> None:
    """Write the size of an experiment into the plan."""
    path = folder / _PLAN
    with locked(folder, wait=True):  # another `lab run` may add its experiment to the same plan
        plan = json.loads(path.read_text("utf-8")) if path.exists() else {}
        plan[experiment.name] = {"seeds": size.seeds, "settings": asdict(size.settings)}
        write_json(path, plan)
