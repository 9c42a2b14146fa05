"""Compare several runs on one page: their results, their curves and their settings."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from keras_cnns.durations import format_seconds
from keras_cnns.files import write_text
from keras_cnns.report import charts, page
from keras_cnns.report.metrics import wilson_interval
from keras_cnns.report.records import LOSS_SUM_TITLE, Records, read_records
from keras_cnns.report.run_report import GRADIENT_RATIO, UPDATE_RATIO, flatten
from keras_cnns.runs.logs import LOSS_SUM

COLUMNS = (
    "run",
    "test accuracy",
    "95 % interval",
    "test loss",
    "best epoch",
    "epochs",
    "training time",
    "median step",
)
NUMBERS = len(COLUMNS) - 1
_ABSENT = "-"
_LEARNING = (
    "Losses and accuracies are those of the main output. A model with auxiliary classifiers is "
    "trained on the weighted sum of its losses, which has charts of its own."
)


def compare(paths: Sequence[str | Path], page_path: str | Path) -> list[tuple[str, ...]]:
    """Write a page that compares runs, and return the rows of its table under `COLUMNS`.

    Raises:
        RunError: one of the paths is not a run.
        OSError: the page cannot be written.
    """
    runs = dict(zip(name_runs(paths), map(read_records, paths), strict=True))
    write_text(Path(page_path), render(runs))
    return _summaries(runs)


def name_runs(paths: Sequence[str | Path]) -> list[str]:
    """Return the names of the directories, or whole paths if two names are equal."""
    names = [Path(path).resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    whole = [str(path) for path in paths]
    return [f"{name} ({i})" if whole.count(name) > 1 else name for i, name in enumerate(whole, 1)]


def render(
    runs: dict[str, Records],
    title: str = "Comparison",
    subtitle: str = "",
    more: Sequence[page.Section] = (),
) -> str:
    """Return the page as HTML; the sections `more` follow the curves."""
    sections = [
        page.Section("Results", "", [page.Table(COLUMNS, _summaries(runs), numbers=NUMBERS)]),
        page.Section("Learning", _LEARNING, [_curves(runs)]),
        *more,
        page.Section(
            "Differences",
            "Values of the recipes and environments that differ between the runs.",
            [_differences(runs)],
        ),
    ]
    return page.render(title, subtitle or ", ".join(runs), sections)


def _summaries(runs: dict[str, Records]) -> list[tuple[str, ...]]:
    """Return each run's row under `COLUMNS`."""
    return [_summary(name, records) for name, records in runs.items()]


def _summary(name: str, records: Records) -> tuple[str, ...]:
    step = f"{np.median(records.times['step_ms']):,.1f} ms" if records.times else _ABSENT
    epochs = f"{len(records.epochs())} of {records.run.recipe.training.epochs}"
    if not records.results:
        return (name, "not finished", *[_ABSENT] * 3, epochs, _ABSENT, step)
    test = records.results["test"]
    low, high = wilson_interval(test["accuracy"] * test["samples"], test["samples"])
    return (
        name,
        f"{test['accuracy']:.2%}",
        f"{low:.1%} to {high:.1%}",
        f"{test['loss']:.4f}",
        str(records.results["best_epoch"]),
        epochs,
        format_seconds(records.results["training_seconds"]),
        step,
    )


def _curves(runs: dict[str, Records]) -> page.Charts:
    """Return charts with a line for each run."""

    def by_epoch(title: str, metric: str, **options: Any) -> page.Chart | None:
        series = {name: records.by_epoch(metric) for name, records in runs.items()}
        return charts.lines(title, series, x="epoch", **options)

    def by_step(title: str, metric: str, **options: Any) -> page.Chart | None:
        series = {name: records.by_step(metric) for name, records in runs.items()}
        return charts.lines(title, series, x="training step", **options)

    return page.Charts(
        [
            by_epoch("Validation accuracy", "val_accuracy", y="accuracy", percent=True),
            by_epoch("Validation loss", "val_loss", y="loss", log=True),
            by_epoch("Training loss", "loss", y="loss", log=True),
            by_epoch(f"{LOSS_SUM_TITLE}, validation", f"val_{LOSS_SUM}", y="loss", log=True),
            by_epoch(f"{LOSS_SUM_TITLE}, training", LOSS_SUM, y="loss", log=True),
            by_step("Learning rate", "learning_rate", y="learning rate"),
            by_step(GRADIENT_RATIO, "gradient_ratio", y="ratio of norms", log=True),
            by_step(UPDATE_RATIO, "update_ratio", y="median over the layers", log=True),
        ]
    )


def _differences(runs: dict[str, Records]) -> page.Block:
    values = [
        flatten(asdict(cast(Any, records.run.recipe))) | flatten(records.environment)
        for records in runs.values()
    ]
    names = dict.fromkeys(name for each in values for name in each)
    rows = [
        (name, *(each.get(name, _ABSENT) for each in values))
        for name in names
        if not name.startswith("process.") and len({each.get(name) for each in values}) > 1
    ]
    return page.Table(("name", *runs), rows) if rows else page.Text("There are no differences.")
