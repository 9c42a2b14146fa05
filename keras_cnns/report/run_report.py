"""The page `report.html` of one run, from its results to its gradients and its environment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns.data.sources.folder.findings import printable
from keras_cnns.durations import format_seconds
from keras_cnns.files import read_text, write_names, write_text
from keras_cnns.intervals import format_interval
from keras_cnns.report import charts, page
from keras_cnns.report.findings import describe_run
from keras_cnns.report.metrics import (
    Reliability,
    balanced_accuracy,
    confusion_counts,
    precision_and_recall,
    recall_intervals,
    reliability_bins,
)
from keras_cnns.report.records import LOSS_SUM_TITLE, Records, read_records
from keras_cnns.report.selective_section import threshold_section, unknown_section
from keras_cnns.runs.augmented import read_augmented
from keras_cnns.runs.ending import describe_ending
from keras_cnns.runs.evaluation import open_run_split
from keras_cnns.runs.logs import LOSS_SUM
from keras_cnns.runs.names import AUGMENTED, CONFIG, MISTAKES, MODEL, REPORT
from keras_cnns.runs.predictions import Mistake, Predictions, collect
from keras_cnns.runs.tables import format_rows
from keras_cnns.spreadsheets import escape_cell

GRADIENT_RATIO = "Gradient norm, first layer divided by last"
UPDATE_RATIO = "Update-to-weight ratio"
_DEPTH_LINES = 5  # number of lines, each for a training step, in a chart by depth
_CONFUSIONS = 12  # maximum number of rows in the table of the most frequent confusions
_OPEN_ROWS = 40  # a table of classes with more rows is folded
_OPEN_MISTAKES = 24  # further pictures of mistakes are folded
_MISTAKE_COLUMNS = ("file", "index", "label", "predicted", "confidence", "label_probability")


def write_report(path: str | Path, predictions: Predictions | None = None) -> Path:
    """Write a run's `report.html`; for an unfinished training, write the parts that exist.

    Also write `mistakes.csv`, if there is a model.

    Args:
        path: the run directory.
        predictions: the predictions of the run's best model on its test split; if None, they are
            computed.

    Returns:
        The page's path.

    Raises:
        RunError: the path is not a run, or its data have other classes now.
        OSError: the page or the table cannot be written.
    """
    records = read_records(path)
    if records.has_model and predictions is None:
        split = open_run_split(records.run, records.run.recipe.data.test_split)
        predictions = collect(records.run.load_model(), split)
    if predictions:
        rows = _mistake_rows(predictions, records.run.labels)
        text = format_rows(rows, _MISTAKE_COLUMNS, header=True)
        write_names(records.run.path / MISTAKES, text, is_shared=True)
    report = records.run.path / REPORT
    write_text(report, render(records, predictions), is_shared=True)
    return report


def render(records: Records, predictions: Predictions | None) -> str:
    """Return the page as HTML."""
    recipe, labels = records.run.recipe, records.run.labels
    counts = None
    if predictions:
        counts = confusion_counts(predictions.labels, predictions.predicted, predictions.classes)
    sections = [
        page.Section("Findings", "", [page.Items(describe_run(records, counts, labels))]),
        page.Section("Learning", _describe_ending(records), [learning(records)]),
        *(
            _test_sections(records, predictions, counts)
            if predictions and counts is not None
            else []
        ),
        page.Section(
            "Training images",
            "The first images of the training, as the recipe augments them.",
            [_training_images(records)],
        ),
        page.Section(
            "Gradient flow",
            "These charts show the gradient of the loss with respect to each layer's kernel, "
            "always measured on the same few training images. A line that falls steeply towards "
            "the first layers shows a vanishing gradient. The update-to-weight ratio is the norm "
            "of the change of a kernel in one step, divided by the norm of the kernel.",
            [_gradient_flow(records)],
        ),
        page.Section(
            "Activations",
            "These charts show the outputs of the activation functions for the same images. Lines "
            "that drift apart show covariate shift. A dead channel is 0 for every image at every "
            "position, and learns nothing.",
            [_activations(records)],
        ),
        page.Section("Time", "", [_time_per_step(records)]),
        page.Section(
            "Load the model",
            "Run this code in the run directory, with a Python that has keras-cnns. To use "
            "keras.saving.load_model instead, import keras_cnns.models before you call it.",
            [page.Code(f'import keras_cnns\n\nmodel = keras_cnns.load_model("{MODEL}")')],
        ),
        page.Section("Recipe", "", [page.Code(read_text(records.run.path / CONFIG))]),
        page.Section(
            "Environment",
            "",
            [page.Table(("name", "value"), list(flatten(records.environment).items()))],
        ),
    ]
    subtitle = (
        f"{recipe.model.name} on {recipe.data.name}, {len(labels)} classes, images of "
        f"{recipe.data.image_size} x {recipe.data.image_size} x {recipe.data.channels}"
    )
    title = records.run.path.resolve().name
    key_metrics = _key_metrics(records, predictions, counts)
    return page.render(title, subtitle, sections, key_metrics, contents=True)


def _describe_ending(records: Records) -> str:
    results = records.results
    return describe_ending(records.run.recipe, results) if results else ""


def _mistake_rows(predictions: Predictions, labels: Sequence[str]) -> list[dict[str, object]]:
    """Return the rows of `mistakes.csv`, in descending order of confidence.

    If the data are a folder of images, `file` is the path of the image; otherwise it is empty. The
    `index` is the index of the image in the split.
    """
    path_of = predictions.path_of
    wrong = np.flatnonzero(~predictions.is_correct)
    order = wrong[np.argsort(-predictions.confidences[wrong], kind="stable")]
    return [
        {
            "file": escape_cell(str(path_of(int(index)))) if path_of else "",
            "index": int(index),
            "label": escape_cell(labels[predictions.labels[index]]),
            "predicted": escape_cell(labels[predictions.predicted[index]]),
            "confidence": round(float(predictions.confidences[index]), 6),
            "label_probability": round(float(predictions.label_probabilities[index]), 6),
        }
        for index in order
    ]


def _depth_chart(
    records: Records, title: str, metric: str, y: str, **options: Any
) -> page.Chart | None:
    """Return a chart of a metric against depth, at evenly distributed steps of the training."""
    values = records.by_layer(metric)
    measured = np.flatnonzero(np.isfinite(values).any(axis=1))
    shown = np.linspace(0, len(measured) - 1, min(_DEPTH_LINES, len(measured))).round().astype(int)
    profiles = {int(records.diagnostics["step"][i]): values[i] for i in measured[shown]}
    return charts.by_depth(title, profiles, records.layers(metric), y=y, **options)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as `outer.inner` -> text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def learning(records: Records) -> page.Charts:
    """Return the charts of the main output's loss and accuracy, and of the learning rate."""
    best = (float(records.results["best_epoch"]), "best epoch") if records.results else None

    def curves(title: str, metric: str, **options: Any) -> page.Chart | None:
        splits = {"training": metric, "validation": f"val_{metric}"}
        series = {name: records.by_epoch(each) for name, each in splits.items()}
        return charts.lines(title, series, x="epoch", mark=best, **options)

    return page.Charts(
        [
            curves("Loss", "loss", y="loss", log=True),
            curves(LOSS_SUM_TITLE, LOSS_SUM, y="loss", log=True),
            curves("Accuracy", "accuracy", y="accuracy", percent=True),
            charts.lines(
                "Learning rate",
                {"": records.by_step("learning_rate")},
                x="training step",
                y="learning rate",
            ),
        ]
    )


def _key_metrics(
    records: Records, predictions: Predictions | None, counts: np.ndarray | None
) -> page.Cards:
    metrics: list[tuple[str, str]] = []
    if predictions and counts is not None:
        images = len(predictions.labels)
        interval = format_interval(predictions.accuracy * images, images)
        metrics += [
            (f"test accuracy; 95 % interval {interval}", f"{predictions.accuracy:.2%}"),
            (
                "balanced accuracy, the mean recall of the classes",
                f"{balanced_accuracy(counts):.2%}",
            ),
            ("test images", f"{images:,}"),
            ("expected calibration error (ECE)", f"{_reliability(predictions).error:.2%}"),
        ]
    if corrected := records.environment.get("corrections"):
        numbers = f"{corrected['labels_changed']} and {corrected['images_excluded']}"
        metrics.append(("labels changed and images excluded by corrections", numbers))
    epochs = records.run.recipe.training.epochs
    if records.results:
        metrics.append((f"best epoch of {epochs}", str(records.results["best_epoch"])))
        metrics.append(("training time", format_seconds(records.results["training_seconds"])))
    else:
        metrics.append(
            ("epochs so far; the training is not finished", f"{len(records.epochs())} of {epochs}")
        )
    if records.times:
        step = float(np.median(records.times["step_ms"]))
        rate = records.run.recipe.training.batch_size / step * 1e3
        metrics.append(("median time per step", f"{step:,.1f} ms"))
        metrics.append(("training images per second", f"{rate:,.0f}"))
    return page.Cards(metrics)


def _gradient_flow(records: Records) -> page.Charts:
    return page.Charts(
        [
            _depth_chart(records, "Gradient norm by depth", "gradient_norm", "L2 norm", log=True),
            charts.lines(
                GRADIENT_RATIO,
                {"": records.by_step("gradient_ratio")},
                x="training step",
                y="ratio of norms",
                log=True,
            ),
            charts.band(
                UPDATE_RATIO,
                records.by_step("step")[1],
                records.by_layer("update_ratio"),
                y="|change| / |weights|",
                guide=(1e-3, "usual: 1e-3"),
            ),
            _depth_chart(records, f"{UPDATE_RATIO} by depth", "update_ratio", "ratio", log=True),
        ]
    )


def _activations(records: Records) -> page.Charts:
    return page.Charts(
        [
            _depth_chart(records, "Mean of the activations", "activation_mean", "mean"),
            _depth_chart(
                records,
                "Standard deviation of the activations",
                "activation_std",
                "standard deviation",
            ),
            _depth_chart(
                records, "Dead ReLU channels", "dead_relu", "fraction of channels", percent=True
            ),
        ]
    )


def _test_sections(
    records: Records, predictions: Predictions, counts: np.ndarray
) -> list[page.Section]:
    labels = records.run.labels
    bins = _reliability(predictions)
    images = f"{len(predictions.labels):,} images"
    return [
        page.Section(
            "Classes",
            "Precision is the fraction of a class's predictions that are correct, and recall is "
            "the fraction of a class's images that are classified correctly. The interval is the "
            "95 % confidence interval of the recall (Wilson 1927): the fewer images a class has, "
            "the wider it is.",
            [_classes(predictions, counts, labels)],
        ),
        page.Section(
            "Confusion",
            "The confusion matrix of the test split has the true classes in its rows, and the "
            "predicted classes in its columns.",
            [
                page.Charts([charts.confusion(f"Confusion, {images}", counts, labels)]),
                _confusions(counts, labels),
            ],
            side_by_side=True,
        ),
        page.Section(
            "Mistakes",
            _introduce_mistakes(predictions),
            [_mistakes(records, predictions)],
        ),
        page.Section(
            "Calibration",
            "If a calibrated model makes predictions with a confidence of 80 %, then 80 % of these "
            f"predictions are correct. The expected calibration error over {len(bins.counts)} bins "
            f"is {bins.error:.2%}.",
            [
                page.Charts(
                    [charts.reliability("Reliability", bins.confidence, bins.accuracy, bins.counts)]
                )
            ],
        ),
        threshold_section(predictions, records.results),
        unknown_section(records.unknown),
    ]


def _reliability(predictions: Predictions) -> Reliability:
    return reliability_bins(predictions.confidences, predictions.is_correct)


def _confusions(counts: np.ndarray, labels: Sequence[str]) -> page.Block:
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    rows = [
        (labels[row], labels[column], str(wrong[row, column]))
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]
    if not rows:
        return page.Text("All images are classified correctly.")
    columns = ("true", "predicted", "images")
    return page.Table(columns, rows, numbers=1, title="Most frequent confusions")


def _classes(predictions: Predictions, counts: np.ndarray, labels: Sequence[str]) -> page.Table:
    precision, recall = precision_and_recall(
        predictions.labels, predictions.predicted, predictions.classes
    )
    intervals = [interval for _, interval in recall_intervals(counts)]
    rows = [
        (
            label,
            str(counts[k].sum()),
            str(counts[:, k].sum()),
            str(counts[k, k]),
            *("-" if np.isnan(value) else f"{value:.1%}" for value in (precision[k], recall[k])),
            intervals[k],
        )
        for k, label in enumerate(labels)
    ]
    columns = ("class", "images", "predicted", "correct", "precision", "recall", "95 % interval")
    summary = f"All {len(rows)} classes" if len(rows) > _OPEN_ROWS else ""
    return page.Table(columns, rows, numbers=6, summary=summary)


def _introduce_mistakes(predictions: Predictions) -> str:
    wrong, shown = int(np.sum(~predictions.is_correct)), predictions.mistakes
    if not wrong:
        return ""
    which = f"the {wrong:,}" if len(shown) == wrong else f"{len(shown)} of the {wrong:,}"
    return (
        f"This section shows {which} test images that are classified incorrectly, in descending "
        f"order of confidence. The file {MISTAKES}, in the folder of this page, lists all mistakes."
    )


def _mistakes(records: Records, predictions: Predictions) -> page.Block:
    if not predictions.mistakes:
        return page.Text("All images are classified correctly.")
    labels, root = records.run.labels, records.run.recipe.data.path

    def show(mistake: Mistake) -> page.Picture:
        path = predictions.path_of(mistake.index) if predictions.path_of else None
        name = f"test image {mistake.index}"
        if path:
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        return page.Picture(
            mistake.image,
            (
                f"{labels[mistake.label]} ({mistake.label_probability:.1%})",
                f"predicted: {labels[mistake.predicted]} ({mistake.confidence:.1%})",
                printable(name),
            ),
            page.file_address(path, records.run.path) if path else "",
        )

    return page.Pictures([show(each) for each in predictions.mistakes], _OPEN_MISTAKES)


def _training_images(records: Records) -> page.Pictures:
    size = records.run.recipe.data.image_size
    images = read_augmented(records.run.path / AUGMENTED, size)
    return page.Pictures([page.Picture(image, (caption,)) for image, caption in images])


def _time_per_step(records: Records) -> page.Charts:
    times = records.times
    names = {"median": "step_ms", "95th percentile": "slow_step_ms"}
    series = {name: (times["epoch"], times[each]) for name, each in names.items() if times}
    return page.Charts(
        [charts.lines("Time per step", series, x="epoch", y="milliseconds", from_zero=True)]
    )
