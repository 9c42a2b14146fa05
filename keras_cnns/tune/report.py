"""The page of a search, with its result, its trials, and the importance of the settings."""

import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_cnns.data.sources.folder.findings import printable
from keras_cnns.durations import format_seconds
from keras_cnns.files import write_text
from keras_cnns.report import charts, page
from keras_cnns.tune.search import BEST, Outcome, Request
from keras_cnns.tune.space import (
    Choice,
    Range,
    Space,
    Value,
    format_value,
    recipe_values,
    short_names,
)
from keras_cnns.tune.study import Trial

PAGE = "tune.html"
_ACCURACY = "validation accuracy"
_MIN_FOR_COORDINATES = 2  # minimum number of trials for the chart of parallel coordinates


def write_report(request: Request, outcome: Outcome) -> Path:
    """Write the page of a search, and return its path.

    Raises:
        OSError: the page cannot be written.
    """
    path = request.folder / PAGE
    write_text(path, _render(request, outcome))
    return path


def _render(request: Request, outcome: Outcome) -> str:
    """Return the page as HTML."""
    trials, names = outcome.trials, _names(request.space)
    counts = {
        state: sum(each.state == state for each in trials)
        for state in ("completed", "pruned", "diverged")
    }
    cards = page.Cards(
        [
            ("trials", str(len(trials))),
            ("pruned", str(counts["pruned"])),
            ("diverged", str(counts["diverged"])),
            ("recipe, validation accuracy", f"{trials[0].accuracy:.2%}"),
            (f"best trial ({outcome.best.number})", f"{outcome.best.accuracy:.2%}"),
            ("time spent", format_seconds(outcome.spent)),
        ]
    )
    sections = [
        page.Section(
            "Result",
            outcome.describe(),
            [
                *_comparison(outcome),
                page.Code(_command(request.folder), title=_what_it_trains(outcome)),
            ],
        ),
        page.Section(
            "Search space",
            "The first trial has the recipe's own values. Epochs, seed and data are the same in "
            "every trial.",
            [_space_table(request, outcome.best)],
        ),
        page.Section(
            "Course of the search",
            f"The {_ACCURACY} of a trial is that of its best epoch. Only this accuracy selects the "
            "settings; the test images are not used before the comparison.",
            [page.Charts([_history(trials)], downloads=True)],
        ),
        page.Section(
            "Settings and accuracy",
            "Each line is a trial, and darker lines have a higher accuracy. A setting "
            "matters if the dark lines cross its axis close together.",
            [page.Charts([_coordinates(request.space, outcome)], downloads=True, wide=True)],
        ),
        page.Section(
            "Importance of the settings",
            f"Each bar is the fraction of the variance of the {_ACCURACY} that a setting alone "
            "explains within its range, over the completed trials (fANOVA, Hutter et al. 2014). "
            "With few trials it is a rough estimate.",
            [
                page.Charts(
                    [
                        charts.bars(
                            "Importance of the settings",
                            {names[key]: each for key, each in outcome.importances.items()},
                            x="fraction of the variance",
                            percent=True,
                        )
                    ],
                    downloads=True,
                ),
                page.Table(
                    ("setting", "fraction of the variance"),
                    [(key, f"{value:.0%}") for key, value in outcome.importances.items()],
                    numbers=1,
                    summary="The numbers of the chart",
                ),
            ]
            if outcome.importances
            else [page.Text("There are fewer than four completed trials with different results.")],
        ),
        page.Section(
            "Trials",
            "A pruned trial was ended early, because its accuracy was lower than that of earlier "
            "trials at the same epoch. The run directories of the trials are beside this page: "
            f"{trials[0].name} and so on.",
            [_trials_table(request.space, trials)],
        ),
    ]
    title = f"Search: {printable(request.source)}"
    subtitle = (
        f"{request.recipe.model.name} on {request.recipe.data.name}, "
        f"{request.recipe.training.epochs} epochs per trial, pruner {request.pruner}."
    )
    return page.render(title, subtitle, sections, cards, contents=True)


def _comparison(outcome: Outcome) -> list[page.Block]:
    """Return the table and the chart of the comparison over seeds, if there was one."""
    comparison = outcome.comparison
    if comparison is None or comparison.diverged:
        return []
    best = f"trial {comparison.number}"
    rows = [
        (str(seed), f"{recipe:.2%}", f"{other:.2%}", f"{100 * (other - recipe):+.2f}")
        for seed, recipe, other in zip(
            comparison.seeds, comparison.recipe, comparison.best, strict=True
        )
    ]
    dots = charts.dots(
        "Test accuracy of each seed",
        {"recipe": comparison.recipe, best: comparison.best},
        y="test accuracy",
        percent=True,
    )
    return [
        page.Table(("seed", "recipe", best, "difference in points"), rows, numbers=3),
        page.Charts([dots], downloads=True),
    ]


def _what_it_trains(outcome: Outcome) -> str:
    number = outcome.chosen.number
    which = "the recipe's own settings" if number == 1 else f"the settings of trial {number}"
    return f"The training with {BEST}, which has {which}"


def _command(folder: Path) -> str:
    path = printable(shlex.quote(str(folder / BEST)))
    return f"keras-cnns train --recipe {path} --run {printable(shlex.quote(f'{folder}-best'))}"


def _space_table(request: Request, best: Trial) -> page.Table:
    own = recipe_values(request.recipe, request.space)
    rows = [
        (key, str(values), format_value(own[key]), format_value(best.values[key]))
        for key, values in request.space.items()
    ]
    return page.Table(("key", "values", "recipe", f"best trial ({best.number})"), rows)


def _trials_table(space: Space, trials: Sequence[Trial]) -> page.Table:
    rows = [
        (
            str(each.number),
            each.state,
            *(format_value(each.values[key]) for key in space),
            str(each.epochs),
            "-" if math.isnan(each.accuracy) else f"{each.accuracy:.2%}",
            format_seconds(each.seconds),
        )
        for each in trials
    ]
    columns = ("trial", "state", *_names(space).values(), "epochs", _ACCURACY, "time")
    return page.Table(columns, rows, numbers=3)


def _names(keys: Iterable[str]) -> dict[str, str]:
    """Return the names of keys in tables and charts."""
    return {key: name.replace("_", " ") for key, name in short_names(keys).items()}


def _history(trials: Sequence[Trial]) -> page.Chart | None:
    """Draw the accuracy of each trial, and the best accuracy so far."""
    numbers = [each.number for each in trials]
    completed = [each.accuracy if each.state == "completed" else math.nan for each in trials]
    pruned = [each.accuracy if each.state == "pruned" else math.nan for each in trials]
    best = np.fmax.accumulate(completed)
    return charts.lines(
        "Validation accuracy of each trial",
        {
            "best so far": (numbers, best),
            "completed": (numbers, completed),
            "pruned": (numbers, pruned),
        },
        x="trial",
        y=_ACCURACY,
        percent=True,
        points=("completed", "pruned"),
    )


def _coordinates(space: Space, outcome: Outcome) -> page.Chart | None:
    """Draw each trial as a line across the axes of the settings and of the accuracy."""
    shown = [each for each in outcome.trials if not math.isnan(each.accuracy)]
    if len(shown) < _MIN_FOR_COORDINATES:
        return None
    names = _names(space)
    columns = {
        names[key]: _axis(values, [each.values[key] for each in shown])
        for key, values in space.items()
    }
    accuracies = np.array([each.accuracy for each in shown])
    low, high = float(accuracies.min()), float(accuracies.max())
    heights = [(each - low) / (high - low) if high > low else 0.5 for each in accuracies]
    columns["accuracy"] = heights, [(0.0, f"{low:.1%}"), (1.0, f"{high:.1%}")]
    best = next(index for index, each in enumerate(shown) if each.number == outcome.best.number)
    return charts.parallel_coordinates(
        "Settings and accuracy of each trial",
        columns,
        heights,
        y="value within its range",
        marked={"recipe": 0} | ({f"best trial ({shown[best].number})": best} if best else {}),
        dashed=("pruned", [index for index, each in enumerate(shown) if each.state == "pruned"]),
    )


def _axis(
    values: Range | Choice, given: Sequence[Value]
) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the heights of values on an axis and the labels of the axis."""
    if not isinstance(values, Range):
        names = list(dict.fromkeys([*values.ends(), *given]))
        step = 1 / max(1, len(names) - 1)
        labels = [(index * step, format_value(name)) for index, name in enumerate(names)]
        return [names.index(each) * step for each in given], labels
    scale = math.log if values.log else float
    low, high = scale(values.low), scale(values.high)
    heights = [
        (scale(each) - low) / (high - low) if values.contains(each) else math.nan  # type: ignore[arg-type]
        for each in given
    ]
    return heights, [(0.0, format_value(values.ends()[0])), (1.0, format_value(values.ends()[1]))]
