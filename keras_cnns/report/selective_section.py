"""Two sections of a run's report: thresholds of the probability, and unknown objects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_cnns.intervals import format_interval
from keras_cnns.report import charts, page
from keras_cnns.runs.predictions import Predictions
from keras_cnns.runs.selective import (
    ACCURACIES,
    Threshold,
    coverage_curve,
    measure_threshold,
    min_answered,
)

_MAX_POINTS = 200  # maximum number of points of a curve
SCORE_COLUMNS = ("score", "AUROC", "unknown accepted at 95 % of known")
ACCEPTANCE_COLUMNS = ("chosen for", "threshold", "known images", "unknown images")
COLUMNS = ("chosen for", "threshold", "answered", "correct", "95 % interval")


def threshold_section(predictions: Predictions, results: Mapping[str, Any] | None) -> page.Section:
    """Return the section on thresholds.

    Args:
        predictions: the predictions on the test split.
        results: the results of the run; if they lack `confidence`, as in version 0.1, only the
            curve is shown.
    """
    confidence = (results or {}).get("confidence")
    intro = (
        "If the highest probability of an image is below a threshold, the answer can be "
        "\u201cunknown\u201d instead of a class. The coverage is the fraction of the images that "
        "are answered with a class. With a lower coverage, usually a larger fraction of the "
        "answers is correct (Geifman and El-Yaniv 2017)."
    )
    measured: list[Threshold] = []
    blocks: list[page.Block] = []
    if confidence:
        measured = [
            measure_threshold(each["threshold"], predictions.confidences, predictions.is_correct)
            for each in confidence["thresholds"]
        ]
        rows = [
            (*threshold_row(chosen), *threshold_row(vars(test))[2:])
            for chosen, test in zip(confidence["thresholds"], measured, strict=True)
        ]
        of_test = [f"{name} (test)" for name in COLUMNS[2:]]
        columns = (*COLUMNS, *of_test)
        blocks += [
            page.Items(describe_thresholds(confidence, measured)),
            page.Table(columns, rows, numbers=len(columns) - 1),
        ]
    return page.Section("Thresholds", intro, [*blocks, page.Charts([_curve(predictions)])])


def threshold_row(threshold: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a threshold, with the columns `COLUMNS`.

    Args:
        threshold: a dict with the keys that a threshold has in `results.json`.
    """
    accuracy = threshold["accuracy"]
    return (
        *_name(threshold),
        f"{threshold['coverage']:.1%}",
        "-" if accuracy is None else f"{accuracy:.1%}",
        format_interval(threshold["correct"], threshold["answered"]),
    )


def _name(threshold: Mapping[str, Any]) -> tuple[str, str]:
    """Return two cells: the accuracy for which a threshold was chosen, and the threshold."""
    target = threshold["min_accuracy"]
    return "-" if target is None else f"{target:.0%} correct", str(threshold["threshold"])


def describe_thresholds(confidence: Mapping[str, Any], test: Sequence[Threshold]) -> list[str]:
    """Return sentences on the thresholds.

    Args:
        confidence: the value of `confidence` in `results.json`, which contains the thresholds.
        test: the same thresholds, measured on the test images.
    """
    chosen = {each["min_accuracy"]: each for each in confidence["thresholds"]}
    missing = [each for each in ACCURACIES if each not in chosen]
    sentences = [
        f"The thresholds were chosen on the {confidence['samples']:,} images of "
        f"{confidence['split']}; the last three columns were measured on the test images. The "
        "interval is the 95 % confidence interval of the accuracy of the answers (Wilson 1927)."
    ]
    targets = [each for each in ACCURACIES if each in chosen]
    if targets:
        row = chosen[targets[-1]]
        found = test[confidence["thresholds"].index(row)]
        if not row["threshold"]:
            sentences.append(
                f"No threshold is needed for an accuracy of {targets[-1]:.0%}: on the images of "
                f"{confidence['split']}, {row['accuracy']:.1%} of all answers are correct."
            )
        elif found.accuracy is not None:
            sentences.append(
                f"With the threshold {row['threshold']}, the model answers {found.coverage:.1%} "
                f"of the test images, and {found.accuracy:.1%} of these answers are correct (95 % "
                f"interval {format_interval(found.correct, found.answered)})."
            )
    if missing:
        listed, count = " or ".join(f"{each:.0%}" for each in missing), min_answered(missing[0])
        sentences.append(
            f"There is no threshold for {listed} correct answers: at least {count} answers with "
            f"{'this accuracy' if len(missing) == 1 else f'an accuracy of {missing[0]:.0%}'} would "
            "be needed."
        )
    return sentences


def unknown_section(compared: Mapping[str, Any] | None) -> page.Section:
    """Return the section on unknown objects; it has no content without a comparison.

    Args:
        compared: the content of `unknown.json`; see `runs.unknown.UnknownObjects`.
    """
    if compared is None:
        return page.Section("Unknown objects", "", [])
    return page.Section(
        "Unknown objects",
        f"This section compares the scores of {compared['known_images']:,} images of "
        f"{compared['known']}, whose classes the model knows, with the scores of "
        f"{compared['unknown_images']:,} images of {compared['unknown']}, which show other "
        "objects. AUROC is the probability that a known image has a higher score than an unknown "
        "one; 0.5 is chance. The scores are the highest softmax probability (Hendrycks and Gimpel "
        "2017) and the negative energy (Liu et al. 2020). The thresholds of the probability are "
        "those of the section Thresholds.",
        [
            page.Table(SCORE_COLUMNS, score_rows(compared), numbers=len(SCORE_COLUMNS) - 1),
            page.Table(
                ACCEPTANCE_COLUMNS,
                acceptance_rows(compared),
                numbers=len(ACCEPTANCE_COLUMNS) - 1,
                title="Images that reach a threshold of the probability",
            ),
            page.Charts([_histogram(compared)]),
        ],
    )


def score_rows(compared: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of `SCORE_COLUMNS` for each score in the content of `unknown.json`."""
    names = {"highest probability": "probability", "negative energy": "energy"}
    return [
        (name, f"{compared[key]['auroc']:.4f}", f"{compared[key]['unknown_accepted']:.1%}")
        for name, key in names.items()
    ]


def acceptance_rows(compared: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of `ACCEPTANCE_COLUMNS` for each threshold."""
    return [
        (
            *_name(each),
            f"{each['known']:.1%}",
            f"{each['unknown']:.1%}",
        )
        for each in compared["thresholds"]
    ]


def _histogram(compared: Mapping[str, Any]) -> page.Chart | None:
    bins = len(compared["known_histogram"])
    centres = (np.arange(bins) + 0.5) / bins
    series = {
        f"{name} images": (centres, np.array(compared[f"{name}_histogram"]))
        for name in ("known", "unknown")
    }
    return charts.lines(
        "Highest probability of known and unknown images",
        series,
        x="highest probability",
        y=f"fraction of the images in each of {bins} bins",
        percent=True,
    )


def _curve(predictions: Predictions) -> page.Chart | None:
    """Return a chart of the accuracy of the answers against the coverage, on the test images."""
    _, answered, accuracies = coverage_curve(predictions.confidences, predictions.is_correct)
    shown = np.unique(np.linspace(0, len(answered) - 1, _MAX_POINTS).round().astype(int))
    coverage = answered[shown] / len(predictions.labels)
    return charts.lines(
        "Accuracy against coverage",
        {"": (coverage, accuracies[shown])},
        x="coverage: fraction of the test images that are answered",
        y="accuracy of the answers",
        percent=True,
    )
