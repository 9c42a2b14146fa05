"""`report.html`: one run, from its curves to its worst mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns.data import open_split
from keras_cnns.durations import format_seconds
from keras_cnns.files import read_text, write_text
from keras_cnns.report import charts, page
from keras_cnns.report.records import LOSSES, Records, read_records
from keras_cnns.runs.logs import LOSS_SUM
from keras_cnns.runs.names import CONFIG, MODEL, REPORT
from keras_cnns.runs.predictions import Predictions, calibrate, collect, wilson_interval

MOMENTS = 5  # lines in a diagram by depth
PAIRS = 12  # most frequent confusions
OPEN_ROWS = 40  # classes; a longer table is folded
GRADIENT_RATIO = "Ratio of gradient norms, first to last layer"
UPDATE_RATIO = "Update-to-weight ratio"


def write_report(path: str | Path, predictions: Predictions | None = None) -> Path:
    """Write a run's `report.html`; for an unfinished training, with the parts that exist.

    Args:
        path: the run directory.
        predictions: of its best model on its test split; by default they are computed.

    Returns:
        The page's path.

    Raises:
        RunError: there is no run.
        OSError: it cannot be written.
    """
    records = read_records(path)
    if records.has_model and predictions is None:
        recipe = records.run.recipe
        split = open_split(
            recipe.data, recipe.data.test_split, batch_size=recipe.training.batch_size
        )
        predictions = collect(records.run.load_model(), split)
    report = records.run.path / REPORT
    write_text(report, render(records, predictions))
    return report


def render(records: Records, predictions: Predictions | None) -> str:
    """Return the page."""
    recipe = records.run.recipe
    sections = [
        page.Section("Learning", "", learning(records)),
        page.Section(
            "Gradient flow",
            "The gradient of the loss with respect to each layer's kernel, always on the same few "
            "training images. A line that falls steeply towards the first layers shows a vanishing "
            "gradient. The update-to-weight ratio is the norm of a step's change of a kernel, "
            "divided by the norm of the kernel.",
            gradient_flow(records),
        ),
        page.Section(
            "Activations",
            "The outputs of the nonlinearities on the same images. Lines that drift apart show "
            "covariate shift. A dead channel is 0 for every image at every position, and learns "
            "nothing.",
            activations(records),
        ),
    ]
    if predictions:
        sections += test_sections(records, predictions)
    sections += [
        page.Section("Time", "", time_per_step(records)),
        page.Section(
            "Load the model",
            "In Python, from the run directory, where keras-cnns is installed. With "
            "keras.saving.load_model, import keras_cnns.models must come first.",
            page.preformatted(f'import keras_cnns\n\nmodel = keras_cnns.load_model("{MODEL}")'),
        ),
        page.Section("Recipe", "", page.preformatted(read_text(records.run.path / CONFIG))),
        page.Section("Environment", "", environment(records)),
    ]
    subtitle = (
        f"{recipe.model.name} on {recipe.data.name}, {len(records.run.labels)} classes, images of "
        f"{recipe.data.image_size} x {recipe.data.image_size} x {recipe.data.channels}"
    )
    head = page.cards(key_figures(records, predictions))
    return page.render(records.run.path.resolve().name, subtitle, head, sections)


def key_figures(records: Records, predictions: Predictions | None) -> list[tuple[str, str]]:
    """Return what a reader looks for first."""
    figures: list[tuple[str, str]] = []
    if predictions:
        samples = len(predictions.labels)
        low, high = wilson_interval(predictions.accuracy * samples, samples)
        figures += [
            (
                f"test accuracy; 95 % interval {low:.1%} to {high:.1%}",
                f"{predictions.accuracy:.2%}",
            ),
            ("test images", f"{samples:,}"),
            ("calibration error (ECE)", f"{calibration(predictions).error:.2%}"),
        ]
    epochs, planned = len(records.epochs()), records.run.recipe.training.epochs
    if records.results:
        figures.append((f"best epoch of {planned}", str(records.results["best_epoch"])))
        figures.append(("training", format_seconds(records.results["training_seconds"])))
    else:
        figures.append(("not finished: epochs", f"{epochs} of {planned}"))
    if records.times:
        step = float(np.median(records.times["step_ms"]))
        figures.append(("a step, median", f"{step:,.1f} ms"))
        images = records.run.recipe.training.batch_size / step * 1e3
        figures.append(("images a second", f"{images:,.0f}"))
    return figures


def learning(records: Records) -> str:
    """Return the charts of loss, accuracy and learning rate; losses are the main output's."""
    epochs = records.epochs()
    best = (float(records.results["best_epoch"]), "best epoch") if records.results else None

    def both(metric: str) -> charts.Series:
        return {
            "training": (epochs, records.metric(metric)),
            "validation": (epochs, records.metric(f"val_{metric}")),
        }

    steps = records.diagnostics.get("step", np.array([]))
    rates = records.diagnostics.get("learning_rate", np.array([]))
    options: dict[str, Any] = {"x": "epoch", "mark": best}
    losses = [
        charts.lines(title, drawn(both(metric)), y="loss", log=True, **options)
        for title, metric in (("Loss", "loss"), (LOSSES, LOSS_SUM))
    ]
    accuracy = charts.lines(
        "Accuracy", drawn(both("accuracy")), y="accuracy", percent=True, **options
    )
    rate = charts.lines(
        "Learning rate", drawn({"": (steps, rates)}), x="training step", y="learning rate"
    )
    return page.charts([*losses, accuracy, rate])


def drawn(series: charts.Series) -> charts.Series:
    """Return the series, without numbers where they were not recorded."""
    return {name: (xs, ys) if len(xs) == len(ys) else ((), ()) for name, (xs, ys) in series.items()}


def gradient_flow(records: Records) -> str:
    """Return the charts of gradients and update-to-weight ratios, by depth and by step."""
    steps = records.diagnostics.get("step", np.array([]))
    ratio = records.diagnostics.get("gradient_ratio", np.array([]))
    return page.charts(
        [
            by_depth(records, "Gradient norm by depth", "gradient_norm", "L2 norm", log=True),
            charts.lines(
                GRADIENT_RATIO,
                drawn({"": (steps, ratio)}),
                x="training step",
                y="ratio of norms",
                log=True,
            ),
            charts.band(
                UPDATE_RATIO,
                steps,
                records.by_layer("update_ratio"),
                y="|change| / |weights|",
                guide=(1e-3, "usual: 1e-3"),
            ),
            by_depth(records, f"{UPDATE_RATIO} by depth", "update_ratio", "ratio", log=True),
        ]
    )


def activations(records: Records) -> str:
    """Return the charts of the activations' mean, standard deviation and dead channels by depth."""
    return page.charts(
        [
            by_depth(records, "Mean of the activations", "activation_mean", "mean"),
            by_depth(
                records,
                "Standard deviation of the activations",
                "activation_spread",
                "standard deviation",
            ),
            by_depth(
                records, "Dead ReLU channels", "dead_relu", "fraction of channels", percent=True
            ),
        ]
    )


def by_depth(records: Records, title: str, figure: str, y: str, **options: Any) -> str:
    """Return a figure's diagram by depth, at moments spread over the training."""
    values = records.by_layer(figure)
    measured = np.flatnonzero(np.isfinite(values).any(axis=1))
    moments = np.linspace(0, len(measured) - 1, min(MOMENTS, len(measured))).round().astype(int)
    profiles = {int(records.diagnostics["step"][i]): values[i] for i in measured[moments]}
    return charts.by_depth(title, profiles, records.layers(figure), y=y, **options)


def test_sections(records: Records, predictions: Predictions) -> list[page.Section]:
    """Return what the test split says."""
    labels, counts = records.run.labels, predictions.confusion()
    found = calibration(predictions)
    matrix = charts.confusion(f"Confusion, {len(predictions.labels):,} images", counts, labels)
    return [
        page.Section(
            "Confusion",
            "The test split: true classes in rows, predictions in columns.",
            f'<div class="charts"><div>{matrix}</div><div>{confusions(counts, labels)}</div></div>',
        ),
        page.Section(
            "Classes",
            "Precision: of what was called so, how much is. "
            "Recall: of what is so, how much was found.",
            classes(predictions, labels),
        ),
        page.Section(
            "Calibration",
            "A model that says 80 % should be right in 80 % of the cases. The expected "
            f"calibration error over {len(found.counts)} bins is {found.error:.2%}.",
            page.charts(
                [charts.reliability("Reliability", found.confidence, found.accuracy, found.counts)]
            ),
        ),
        page.Section(
            "Worst mistakes",
            "The test images whose wrong answers were given with the most confidence."
            if predictions.mistakes
            else "There is none.",
            mistakes(predictions, labels) or " ",
        ),
    ]


def calibration(predictions: Predictions) -> Any:
    """Return how well the confidence of predictions agrees with their accuracy."""
    return calibrate(predictions.confidences, predictions.predicted == predictions.labels)


def confusions(counts: np.ndarray, labels: Sequence[str]) -> str:
    """Return the most frequent confusions."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows = [
        (labels[row], labels[column], str(wrong[row, column]))
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]
    if not rows:
        return "<p>Nothing was confused.</p>"
    return "<h3>Most frequent confusions</h3>" + page.table(
        ("true", "predicted", "images"), rows, numbers=1
    )


def classes(predictions: Predictions, labels: Sequence[str]) -> str:
    """Return precision and recall of each class, with the counts behind them."""
    counts = predictions.confusion()
    precision, recall = predictions.precision_and_recall()
    rows = [
        (
            label,
            str(counts[k].sum()),
            str(counts[:, k].sum()),
            str(counts[k, k]),
            share(precision[k]),
            share(recall[k]),
        )
        for k, label in enumerate(labels)
    ]
    columns = ("class", "images", "predicted", "right", "precision", "recall")
    table = page.table(columns, rows, numbers=5)
    return table if len(rows) <= OPEN_ROWS else page.details(f"All {len(rows)} classes", table)


def share(value: float) -> str:
    """Return a percentage; a dash where nothing was counted."""
    return "-" if np.isnan(value) else f"{value:.1%}"


def mistakes(predictions: Predictions, labels: Sequence[str]) -> str:
    """Return the pictures that were taken for something else."""
    if not predictions.mistakes:
        return ""
    return page.pictures(
        page.picture(
            each.image,
            (
                f"{labels[each.label]} ({each.of_label:.1%})",
                f"taken for {labels[each.predicted]} ({each.confidence:.1%})",
                f"test image {each.number}",
            ),
        )
        for each in predictions.mistakes
    )


def time_per_step(records: Records) -> str:
    """Return the time of a step by epoch."""
    times = records.times
    if not times:
        return ""
    series = {
        "median": (times["epoch"], times["step_ms"]),
        "95th percentile": (times["epoch"], times["slow_step_ms"]),
    }
    chart = charts.lines("Time per step", series, x="epoch", y="milliseconds", from_zero=True)
    return page.charts([chart])


def environment(records: Records) -> str:
    """Return what the run depended on."""
    return page.table(("what", "value"), list(flatten(records.environment).items()))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as `outer.inner` -> text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
