import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keras_cnns.lab import measuring
from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.measuring import cache_key
from keras_cnns.lab.running import (
    Size,
    State,
    choose_size,
    duration,
    read_all_measurements,
    read_plan,
    run_experiments,
)
from keras_cnns.report.page import Chart

MEASURED: list[int] = []


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    MEASURED.append(seed)
    report(0.5, "half")
    return {"value": seed + settings.effort}


def _no_charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    return []


PLAIN = Experiment(
    number=1,
    name="plain",
    claim="A claim.",
    source="",
    varied="",
    fixed="",
    measured="",
    look_at="",
    larger_run="",
    effects=(Effect("value", "", 0.0, lambda measured: float(measured["value"])),),
    formula="",
    implementation=(),
    questions=(),
    run=_run,
    charts=_no_charts,
    table=lambda measured: {"row": measured},
    seconds=60,
    fixed_seconds=20,
)
EXACT = replace(PLAIN, number=2, name="exact", deterministic=True)


@pytest.fixture(autouse=True)
def nothing_is_measured() -> None:
    MEASURED.clear()


def test_a_stopped_run_continues(tmp_path: Path) -> None:
    size = Size(4, Settings())

    def stop(state: State) -> None:
        if state.seed == 2 and state.what == "half":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiments([PLAIN], size, tmp_path, show=stop, log=lambda line: None)
    assert MEASURED == [0, 1, 2]
    assert [m["value"] for m in read_all_measurements(tmp_path, PLAIN, size)] == [1.0, 2.0]
    states: list[State] = []
    lines: list[str] = []
    assert run_experiments([PLAIN, EXACT], size, tmp_path, show=states.append, log=lines.append)
    assert MEASURED == [0, 1, 2, 2, 3, 0]
    assert lines == ["plain: 4 of 4 seeds are measured", "exact: 1 of 1 seeds are measured"]
    assert [state.total for state in states] == sorted(state.total for state in states)
    assert states[0].total == pytest.approx(0.4)
    assert states[-1].total == pytest.approx(0.9)
    assert read_plan(tmp_path) == {"plain": size, "exact": size}


def test_no_measurement_starts_that_would_not_end_in_time(tmp_path: Path) -> None:
    lines: list[str] = []
    size = Size(3, Settings())
    assert not run_experiments([PLAIN], size, tmp_path, minutes=0.9, log=lines.append)
    assert MEASURED == []
    assert lines == [
        "plain: 0 of 3 seeds are measured; the time is over, and the same command continues the run"
    ]


@pytest.mark.parametrize(
    ("minutes", "seeds", "effort"),
    [(None, 5, 1.0), (6.1, 5, 1.0), (5.1, 4, 1.0), (4.1, 3, 1.0), (3.1, 3, 0.5), (0, 3, 0.1)],
)
def test_a_short_time_gives_fewer_seeds_and_shorter_trainings(
    minutes: float | None, seeds: int, effort: float
) -> None:
    # One minute for each seed, of which 20 seconds do not depend on the effort.
    assert choose_size([PLAIN, EXACT], "digits", 5, minutes) == Size(
        seeds, Settings("digits", effort)
    )


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
@pytest.mark.parametrize("minutes", [1.5, 3, 5])
def test_whatever_is_planned_for_several_processes_ends_in_time(
    processes: int, minutes: float
) -> None:
    size = choose_size([PLAIN, EXACT], "digits", 5, minutes, processes)
    free = [0.0] * processes  # seconds after which each process is free
    for experiment in (PLAIN, EXACT):
        for _ in range(size.seeds_of(experiment)):
            free[free.index(min(free))] += size.seconds_of_a_seed(experiment)
    smallest = Size(3, Settings("digits", 0.1))
    assert max(free) <= duration([PLAIN, EXACT], size, processes)
    assert size == smallest or max(free) <= 60 * minutes
    assert (processes, minutes) != (8, 1.5) or size == Size(4, Settings("digits"))


def test_the_key_covers_whatever_determines_the_measurements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [
        cache_key(PLAIN, Settings(), 0),
        cache_key(PLAIN, Settings(), 1),
        cache_key(PLAIN, Settings(effort=0.5), 0),
        cache_key(PLAIN, Settings("fashion-mnist"), 0),
    ]
    monkeypatch.setattr(measuring, "_versions", lambda: {"keras": "4"})
    keys.append(cache_key(PLAIN, Settings(), 0))
    monkeypatch.setattr(measuring, "_source", lambda experiment: "other")
    keys.append(cache_key(PLAIN, Settings(), 0))
    assert len(set(keys)) == len(keys)


MODULE = '''
_SIZE = {size}
_TITLE = "{title}"


def _measure():  # {title}
    """Return {title}."""
    return _SIZE


def _run(seed, settings, report):
    return _measure()


def _charts(measurements):
    return _TITLE
'''


def test_only_the_code_that_measures_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for number, (size, title) in enumerate([(1, "a"), (1, "b"), (2, "a")]):
        name = f"planted_experiment_{number}"
        (tmp_path / f"{name}.py").write_text(MODULE.format(size=size, title=title))
        experiment = replace(PLAIN, run=importlib.import_module(name)._run)
        keys.append(cache_key(experiment, Settings(), 0))
    assert keys[0] == keys[1] != keys[2]


def test_the_cache_records_its_origin(tmp_path: Path) -> None:
    run_experiments([EXACT], Size(5, Settings()), tmp_path, log=lambda line: None)
    (path,) = (tmp_path / "measurements").iterdir()
    content = json.loads(path.read_text())
    assert (content["experiment"], content["seed"], content["measurements"]) == (
        "exact",
        0,
        {"value": 1.0},
    )
    assert content["versions"]["keras"]


def test_a_folder_without_measurements_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lab\.json does not exist: "):
        read_plan(tmp_path)


def test_scaled() -> None:
    assert Settings(effort=0.1).scaled(20, at_least=4) == 4
    assert Settings(effort=0.5).scaled(20) == 10
