"""Compare several runs on one page: their results, their curves and their settings."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from keras_cnns.durations import format_seconds
from keras_cnns.files import write_text
from keras_cnns.intervals import format_interval
from keras_cnns.report import charts, page
from keras_cnns.report.records import LOSS_SUM_TITLE, Records, read_records
from keras_cnns.report.run_report import GRADIENT_RATIO, UPDATE_RATIO, flatten
from keras_cnns.runs.logs import LOSS_SUM

COLUMNS = (
    "run",
    "test accuracy",
    "95 % interval",
    "validation accuracy",
    "test loss",
    "best epoch",
    "epochs",
    "training time",
    "median step",
)
NUMBERS = len(COLUMNS) - 1
SEED_COLUMNS = (
    "runs that differ in the seed only",
    "seeds",
    "mean test accuracy",
    "standard deviation",
    "mean validation accuracy",
)
_ABSENT = "-"
_LEARNING = (
    "Losses and accuracies are those of the main output. A model with auxiliary classifiers is "
    "trained on the weighted sum of its losses, which has charts of its own."
)


@dataclass(frozen=True)
class Comparison:
    """The tables of a comparison."""

    rows: list[tuple[str, ...]]  # a row with the columns `COLUMNS` for each run
    seeds: list[tuple[str, ...]]  # a row with the columns `SEED_COLUMNS` for each group of runs
    warning: str  # why the test accuracies cannot be compared; empty if they can be compared


def compare(paths: Sequence[str | Path], page_path: str | Path) -> Comparison:
    """Write a page that compares runs, and return its tables.

    Raises:
        RunError: one of the paths is not a run.
        OSError: the page cannot be written.
    """
    runs = dict(zip(name_runs(paths), map(read_records, paths), strict=True))
    write_text(Path(page_path), render(runs), is_shared=True)
    return Comparison(_summaries(runs), _summarize_seeds(runs), _describe_test_images(runs))


def name_runs(paths: Sequence[str | Path]) -> list[str]:
    """Return the names of the directories, or their paths if two names are equal."""
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
    seeds = _summarize_seeds(runs)
    warning = _describe_test_images(runs)
    sections = [
        page.Section(
            "Results",
            f"Warning: {warning}" if warning else "",
            [page.Table(COLUMNS, _summaries(runs), numbers=NUMBERS)],
        ),
        page.Section(
            "Seeds",
            "The standard deviation between runs with different seeds shows how much of a "
            "difference between two recipes may be chance.",
            [page.Table(SEED_COLUMNS, seeds, numbers=len(SEED_COLUMNS) - 1)] if seeds else [],
        ),
        page.Section("Learning", _LEARNING, [_curves(runs)]),
        *more,
        page.Section(
            "Differences",
            "Values of the recipes and environments that differ between the runs.",
            [_differences(runs)],
        ),
    ]
    return page.render(title, subtitle or ", ".join(runs), sections)


def _describe_test_images(runs: Mapping[str, Records]) -> str:
    """Return a sentence if the runs were tested on different images, otherwise "".

    The images are the same if the fingerprint of the data, the recipe's test split and the number
    of images are equal. Unfinished runs were not tested and do not count.
    """
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, records in runs.items():
        if records.results:
            data = records.run.recipe.data
            # Runs created before version 0.1 have no fingerprint.
            fingerprint = records.environment.get("data_fingerprint", data.name)
            images = records.results["test"]["samples"]
            groups[str(fingerprint), data.test_split, str(images)].append(name)
    if len(groups) < 2:
        return ""
    listed = "; ".join(
        f"{', '.join(names)}: {int(images):,} images of the split {split}"
        for (_, split, images), names in groups.items()
    )
    is_other = len({key[0] for key in groups}) > 1
    source = "from different data sets" if is_other else "from the same data set"
    return (
        f"the runs were tested on different images {source}, so that their test accuracies cannot "
        f"be compared ({listed})."
    )


def _summarize_seeds(runs: Mapping[str, Records]) -> list[tuple[str, ...]]:
    """Return a row (`SEED_COLUMNS`) for each group of finished runs that differ only in the seed.

    If several runs have the same seed, only the first of them counts, because the others repeat it.
    """
    groups: dict[str, dict[int, tuple[str, Records]]] = defaultdict(dict)
    for name, records in runs.items():
        if records.results:
            recipe = records.run.recipe
            seedless = replace(recipe, training=replace(recipe.training, seed=0))
            fingerprint = records.environment.get("data_fingerprint")
            group = groups[repr((seedless, fingerprint))]
            group.setdefault(recipe.training.seed, (name, records))
    rows: list[tuple[str, ...]] = []
    for group in groups.values():
        if len(group) < 2:
            continue
        test = [records.results["test"]["accuracy"] for _, records in group.values()]  # type: ignore[index]
        validation = [_validation_accuracy(records) for _, records in group.values()]
        rows.append(
            (
                ", ".join(name for name, _ in group.values()),
                str(len(group)),
                f"{np.mean(test):.2%}",
                f"{np.std(test, ddof=1):.2%}",
                f"{np.mean(validation):.2%}",
            )
        )
    return rows


def _validation_accuracy(records: Records) -> float:
    """Return the highest validation accuracy over the epochs; NaN without epochs."""
    values = records.metric("val_accuracy")
    return float(np.nanmax(values)) if len(values) else float("nan")


def _summaries(runs: dict[str, Records]) -> list[tuple[str, ...]]:
    """Return a row for each run, with the columns `COLUMNS`."""
    return [_summary(name, records) for name, records in runs.items()]


def _summary(name: str, records: Records) -> tuple[str, ...]:
    step = f"{np.median(records.times['step_ms']):,.1f} ms" if records.times else _ABSENT
    epochs = f"{len(records.epochs())} of {records.run.recipe.training.epochs}"
    best = _validation_accuracy(records)
    validation = _ABSENT if np.isnan(best) else f"{best:.2%}"
    if not records.results:
        return (name, "not finished", _ABSENT, validation, *[_ABSENT] * 2, epochs, _ABSENT, step)
    test = records.results["test"]
    return (
        name,
        f"{test['accuracy']:.2%}",
        format_interval(test["accuracy"] * test["samples"], test["samples"]),
        validation,
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
