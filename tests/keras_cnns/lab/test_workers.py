import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from keras_cnns.lab.experiment import Settings
from keras_cnns.lab.experiments import find_experiment
from keras_cnns.lab.measuring import measure, read_measurements
from keras_cnns.lab.workers import Seed, measure_all

SADDLE = find_experiment("saddle")
SHORT = Settings(effort=0.1)


def test_processes_measure_what_this_process_measures(tmp_path: Path) -> None:
    seeds = [Seed(SADDLE, SHORT, seed, tmp_path / "two") for seed in range(2)]
    reports: set[tuple[int, str]] = set()
    processes: set[int] = set()

    def report(seed: Seed, fraction: float, what: str) -> None:
        assert 0 <= fraction <= 1
        reports.add((seed.seed, what))
        processes.update(each.pid or 0 for each in multiprocessing.active_children())

    measured = list(measure_all(iter(seeds), 2, report))
    assert sorted(each.seed for each, seconds in measured if seconds > 0) == [0, 1]
    assert {seed for seed, what in reports} == {0, 1}
    assert len(processes) == 2
    measure(tmp_path / "one", SADDLE, SHORT, 0, lambda fraction, what: None)
    one, two = (read_measurements(tmp_path / name, SADDLE, SHORT, 0) for name in ("one", "two"))
    assert one is not None
    assert one == two


@pytest.mark.soak
@pytest.mark.parametrize("error", [KeyboardInterrupt, ChildProcessError])
def test_an_interrupted_run_leaves_no_process(tmp_path: Path, error: type[BaseException]) -> None:
    degradation = find_experiment("degradation")
    seeds = [Seed(degradation, SHORT, seed, tmp_path) for seed in range(2)]

    def report(seed: Seed, fraction: float, what: str) -> None:
        if error is KeyboardInterrupt:
            raise KeyboardInterrupt
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    with pytest.raises(error):
        list(measure_all(iter(seeds), 2, report))
    assert multiprocessing.active_children() == []
