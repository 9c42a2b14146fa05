"""The laboratory's page: an index of claims and verdicts, and a section for each experiment."""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cnns.files import write_text
from keras_cnns.lab.experiment import Experiment, Measurements
from keras_cnns.lab.experiments import EXPERIMENTS
from keras_cnns.lab.running import Size, read_all_measurements, read_plan
from keras_cnns.lab.verdict import CONFIDENCE, Decision, Verdict, decide, seeds_to_decide
from keras_cnns.report import page

PAGE = "lab.html"
_TITLE = "Laboratory: claims about deep convolutional networks"
_SUBTITLE = (
    "Each claim has a smallest effect that counts, which was fixed before the measurement. The "
    "effect is measured with several seeds: for each seed, it is the difference or the ratio of "
    "the results of networks that have this seed. A claim is supported if the lower bound of the "
    "effect is above the smallest effect. It is not supported if the upper bound is below the "
    "smallest effect, and inconclusive otherwise. The bounds are one-sided t bounds with "
    f"{CONFIDENCE:.0%} confidence. Experiments without randomness compare methods, each at its own "
    "best setting."
)
_NOT_MEASURED = "not measured"
# Unit of an effect -> its singular.
_SINGULAR = {
    " percentage points": " percentage point",
    " orders of magnitude": " order of magnitude",
    " nats": " nat",
}

# An experiment, its size (None if it was never started), and the measurements of its finished
# seeds.
Measured = tuple[Experiment, Size | None, list[Measurements]]


def write_report(folder: Path) -> Path:
    """Write the page of the measurements in a folder, and return its path.

    Raises:
        ValueError: no experiment was started in the folder.
        OSError: the page cannot be written.
    """
    path = folder / PAGE
    write_text(path, render(read_folder(folder)))
    return path


def read_folder(folder: Path) -> list[Measured]:
    """Return all experiments, each with its measurements in a folder.

    Raises:
        ValueError: no experiment was started in the folder.
    """
    sizes = read_plan(folder)
    return [
        (each, size, read_all_measurements(folder, each, size) if size else [])
        for each in EXPERIMENTS.values()
        for size in [sizes.get(each.name)]
    ]


def render(measured: Sequence[Measured]) -> str:
    """Return the page as HTML."""
    decided = [
        (experiment, size, measurements, decide(experiment, measurements) if measurements else None)
        for experiment, size, measurements in measured
    ]
    rows = [
        (
            str(experiment.number),
            page.Link(experiment.claim, experiment.name),
            decision[0].value if decision else _NOT_MEASURED,
            str(len(measurements)) if measurements and not experiment.deterministic else "-",
        )
        for experiment, _, measurements, decision in decided
    ]
    index = page.Section(
        "Claims and verdicts",
        "",
        [page.Table(("number", "claim", "verdict", "seeds"), rows, numbers=1)],
    )
    sections = [
        _section(experiment, size, measurements, decision)
        for experiment, size, measurements, decision in decided
    ]
    return page.render(_TITLE, _SUBTITLE, [index, *sections])


def describe_decision(decision: Decision, deterministic: bool) -> str:
    """Return a sentence with a measured effect, its interval, and the smallest effect."""
    effect = decision.effect
    name = effect.name[0].upper() + effect.name[1:]
    if math.isnan(decision.mean):
        return (
            f"{name}: there is no number, because the search for the best setting ended at the "
            "edge of its range."
        )
    mean, smallest = _number(decision.mean), _number(effect.min_effect)
    seeds = len(decision.values)
    if deterministic:
        interval = ""
    elif seeds < 2:
        interval = " (one seed, therefore no interval)"
    else:
        interval = (
            f" (mean of {seeds} seeds; interval from {_number(decision.low)} to "
            f"{_number(decision.high)}, each bound with {CONFIDENCE:.0%} confidence)"
        )
    return (
        f"{name}: {mean}{_unit(mean, effect.unit)}{interval}. The claim requires more than "
        f"{smallest}{_unit(smallest, effect.unit)}, so this part is {decision.verdict.value}."
    )


def _unit(number: str, unit: str) -> str:
    """Return the unit of a number, in the singular if the number is 1."""
    return _SINGULAR.get(unit, unit) if number == "1" else unit


def _section(
    experiment: Experiment,
    size: Size | None,
    measurements: list[Measurements],
    decision: tuple[Verdict, list[Decision]] | None,
) -> page.Section:
    title = f"{experiment.number}. {experiment.claim}"
    about = [
        ("Source", experiment.source),
        ("Varied", experiment.varied),
        ("Fixed", experiment.fixed),
        ("Measured", experiment.measured),
        ("What to look at", experiment.look_at),
    ]
    if size is None or decision is None:
        text = page.Text(f"This claim was not measured. To measure it, run: {_command(experiment)}")
        return page.Section(title, "", [page.Terms(about), text], anchor=experiment.name)
    verdict, decisions = decision
    blocks: list[page.Block] = [
        page.Terms(
            [
                ("Verdict", _describe_verdict(verdict, decisions, experiment.deterministic)),
                (
                    "What would change the verdict",
                    " ".join(describe_changes(experiment, decisions)),
                ),
                *about,
            ]
        ),
        *map(page.Text, experiment.findings(measurements)),
        page.Charts(experiment.charts(measurements), downloads=True),
        *experiment.animations(measurements),
        make_table(experiment, measurements),
        page.Code(experiment.formula, title=f"Formula of {experiment.name}"),
        *(
            page.Code(
                inspect.getsource(each), summary=f"Code of {experiment.name}: {each.__qualname__}"
            )
            for each in experiment.implementation
        ),
        page.Items(experiment.questions, "Questions"),
        page.Text(describe_repetition(experiment, size, len(measurements))),
    ]
    return page.Section(title, "", blocks, anchor=experiment.name)


def _describe_verdict(verdict: Verdict, decisions: list[Decision], deterministic: bool) -> str:
    """Return the verdict, and a sentence for each effect."""
    results = [describe_decision(each, deterministic) for each in decisions]
    return f"{verdict.value.capitalize()}. {' '.join(results)}"


def describe_changes(experiment: Experiment, decisions: list[Decision]) -> list[str]:
    """Return sentences about what would change the verdict."""
    sentences = []
    for each in decisions:
        if each.verdict is Verdict.INCONCLUSIVE and (seeds := seeds_to_decide(each)):
            sentences.append(
                f'The part "{each.effect.name}" is inconclusive. If the mean and the standard '
                "deviation of its effect do not change with more seeds, about "
                f"{seeds} seeds are enough for a decision."
            )
    return [*sentences, experiment.larger_run]


def describe_repetition(experiment: Experiment, size: Size, seeds: int) -> str:
    """Return sentences about the size of a run, with the command for a larger one."""
    settings, command = size.settings, _command(experiment)
    options = f" --data {settings.data}" if settings.data != "digits" else ""
    if experiment.deterministic:
        return f"This verdict does not depend on random numbers. To repeat it, run: {command}"
    planned = "" if seeds == size.seeds else f" of {size.seeds} planned"
    shorter = (
        "" if settings.effort == 1 else f" and {settings.effort:.0%} of the full training length"
    )
    return (
        f"The experiment used the data set {settings.data}, with {seeds}{planned} seeds{shorter}. "
        f"To repeat it with more seeds, run: {command}{options} --seeds {2 * size.seeds}"
    )


def _command(experiment: Experiment) -> str:
    return f"keras-cnns lab run {experiment.name}"


def make_table(experiment: Experiment, measurements: list[Measurements]) -> page.Table:
    """Return the table of means and standard deviations over the seeds."""
    tables = [experiment.table(each) for each in measurements]
    columns = list(dict.fromkeys(column for row in tables[0].values() for column in row))
    rows = [
        (
            name,
            *(
                _mean_and_deviation([table[name].get(column) for table in tables])
                for column in columns
            ),
        )
        for name in tables[0]
    ]
    title = f"Numbers of {experiment.name}"
    if len(measurements) > 1:
        title += f": mean and standard deviation over {len(measurements)} seeds"
    return page.Table(("case", *columns), rows, numbers=len(columns), title=title)


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    known = np.array([value for value in values if value is not None], float)
    if not known.size:
        return "-"
    if known.size == 1:
        return _number(known[0])
    return f"{_number(known.mean())} ± {_number(known.std(ddof=1))}"


def _number(value: float) -> str:
    """Return a number with three significant digits; from 100, round it to a whole number."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else "unbounded"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
