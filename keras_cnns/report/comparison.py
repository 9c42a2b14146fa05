"""Compare several runs on one page: their results, their curves and their settings."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from keras_cnns.durations import format_seconds
from keras_cnns.files import write_text
from keras_cnns.report import charts, page
from keras_cnns.report.records import LOSSES, Records, read_records
from keras_cnns.report.run_report import GRADIENT_RATIO, UPDATE_RATIO, drawn, flatten
from keras_cnns.runs.logs import LOSS_SUM
from keras_cnns.runs.predictions import wilson_interval

COLUMNS = (
    "run",
    "test accuracy",
    "95 % interval",
    "test loss",
    "best epoch",
    "epochs",
    "training",
    "step",
)
NUMBERS = len(COLUMNS) - 1
ABSENT = "-"
LEARNING = (
    "Losses and accuracies are those of the main output. A model with auxiliary classifiers is "
    "trained on the weighted sum of its losses, which has charts of its own."
)


def compare(paths: Sequence[str | Path], page_path: str | Path) -> list[tuple[str, ...]]:
    """Write a page that compares runs, and return the rows of its table under `COLUMNS`.

    Raises:
        RunError: one of them is no run.
        OSError: the page cannot be written.
    """
    runs = dict(zip(name_runs(paths), map(read_records, paths), strict=True))
    write_text(Path(page_path), render(runs))
    return summarise(runs)


def name_runs(paths: Sequence[str | Path]) -> list[str]:
    """Return the directories' names, or whole paths where two are alike."""
    names = [Path(path).resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    whole = [str(path) for path in paths]
    return [f"{name} ({i})" if whole.count(name) > 1 else name for i, name in enumerate(whole, 1)]


def summarise(runs: dict[str, Records]) -> list[tuple[str, ...]]:
    """Return a row for each run."""
    return [summarise_run(name, records) for name, records in runs.items()]


def summarise_run(name: str, records: Records) -> tuple[str, ...]:
    """Return a run's row under `COLUMNS`."""
    step = records.times and f"{np.median(records.times['step_ms']):,.1f} ms"
    epochs = f"{len(records.epochs())} of {records.run.recipe.training.epochs}"
    if not records.results:
        return (name, "not finished", *[ABSENT] * 3, epochs, ABSENT, step or ABSENT)
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
        step or ABSENT,
    )


def render(
    runs: dict[str, Records],
    title: str = "Comparison",
    subtitle: str = "",
    more: Sequence[page.Section] = (),
) -> str:
    """Return the page as HTML; the sections `more` follow the curves."""
    sections = [
        page.Section("Results", "", page.table(COLUMNS, summarise(runs), numbers=NUMBERS)),
        page.Section("Learning", LEARNING, page.charts(curves(runs))),
        *more,
        page.Section(
            "What differs",
            "Values of the recipes and environments that differ between the runs.",
            differences(runs),
        ),
    ]
    return page.render(title, subtitle or ", ".join(runs), "", sections)


def curves(runs: dict[str, Records]) -> list[str]:
    """Return charts with a line for each run."""

    def by_epoch(title: str, metric: str, **options: Any) -> str:
        series = {name: (each.epochs(), each.metric(metric)) for name, each in runs.items()}
        return charts.lines(title, drawn(series), x="epoch", **options)

    def by_step(title: str, metric: str, **options: Any) -> str:
        nothing = np.array([])
        series = {
            name: (
                each.diagnostics.get("step", nothing),
                each.diagnostics.get(metric, nothing),
            )
            for name, each in runs.items()
        }
        return charts.lines(title, drawn(series), x="training step", **options)

    return [
        by_epoch("Validation accuracy", "val_accuracy", y="accuracy", percent=True),
        by_epoch("Validation loss", "val_loss", y="loss", log=True),
        by_epoch("Training loss", "loss", y="loss", log=True),
        by_epoch(f"{LOSSES}, validation", f"val_{LOSS_SUM}", y="loss", log=True),
        by_epoch(f"{LOSSES}, training", LOSS_SUM, y="loss", log=True),
        by_step("Learning rate", "learning_rate", y="learning rate"),
        by_step(GRADIENT_RATIO, "gradient_ratio", y="ratio of norms", log=True),
        by_step(UPDATE_RATIO, "update_ratio", y="median over the layers", log=True),
    ]


def differences(runs: dict[str, Records]) -> str:
    """Return a table of the values that are not the same in every run."""
    values = [
        flatten(asdict(cast(Any, records.run.recipe))) | flatten(records.environment)
        for records in runs.values()
    ]
    names = dict.fromkeys(name for each in values for name in each)
    rows = [
        (name, *(each.get(name, ABSENT) for each in values))
        for name in names
        if not name.startswith("process.") and len({each.get(name) for each in values}) > 1
    ]
    return page.table(("value", *runs), rows) if rows else "<p>Nothing differs.</p>"
