"""Write report.html, a self-contained page with the comparison of a version with Keras."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns.report import page
from keras_cnns.report.selective_section import COLUMNS, threshold_row
from keras_cnns_export.batches import GENERATED, Array
from keras_cnns_export.pixels import Comparison


def write_report(
    version: Path,
    content: Mapping[str, Any],
    sizes: Mapping[str, int],
    worst: Mapping[str, Array],
    pixels: Comparison | None,
) -> None:
    """Write `version`/report.html.

    Args:
        version: the version's directory.
        content: the content of model.json.
        sizes: format -> the size of its files, in bytes.
        worst: format -> the image on which it differs most from Keras, uint8 [H, W, C].
        pixels: the comparison of the pixels that TensorFlow and Pillow decode; None without a
            SavedModel.
    """
    sections = [
        page.Section("Formats compared with Keras", _measured(content), [_formats(content, sizes)]),
        page.Section(
            "Largest differences from Keras",
            "For each format, the image with the largest difference of a probability.",
            [_worst(content, worst)],
        ),
        *_calibration(content),
        *_thresholds(content),
        *([] if pixels is None else [_pixels(pixels)]),
        page.Section(
            "Inputs, outputs and preprocessing", "As in model.json.", [page.Code(_graph(content))]
        ),
    ]
    title = f"{content['name']}: {content['model']['architecture']}"
    exported = f"{content['model']['parameters']:,} parameters, exported {content['created']}"
    text = page.render(title, exported, sections)
    (version / "report.html").write_text(text, encoding="utf-8")


def _measured(content: Mapping[str, Any]) -> str:
    parity, metrics = content["parity"], content["metrics"]
    accuracy = "the accuracy is unknown, because the images have no labels"
    if metrics:
        accuracy = f"Keras' accuracy is {metrics['accuracy']:.2%} on {_images(metrics)}"
    words = f"Compared on {_images(parity)}; {accuracy}."
    own = parity["own_precision"]
    if own is not None:
        words += (
            f" The model computes in {own['policy']} and is exported in float32. Its own "
            "probabilities differ from those in float32 by up to "
            f"{own['largest_difference']:.2e} (mean {own['mean_difference']:.2e}); "
            f"top-1 agreement {own['top_1_agreement']:.2%}."
        )
    return words


def _images(measured: Mapping[str, Any]) -> str:
    if measured["split"] == GENERATED:
        return f"{measured['samples']:,} generated images"
    return f"{measured['samples']:,} images of {measured['split']}"


def _formats(content: Mapping[str, Any], sizes: Mapping[str, int]) -> page.Table:
    rows = []
    for name, parity in content["parity"]["formats"].items():
        entry, accuracy = content["formats"][name], parity["accuracy"]
        rows.append(
            (
                name,
                entry["engine"],
                entry["precision"],
                f"{sizes[name] / 1e6:,.2f}",
                f"{entry['milliseconds']:.3g}",
                f"{parity['largest_difference']:.2e}",
                f"{parity['mean_difference']:.2e}",
                f"{parity['top_1_agreement']:.2%}",
                "" if accuracy is None else f"{accuracy:.2%}",
            )
        )
    columns = (
        "format",
        "engine",
        "precision",
        "size, MB",
        "one image, ms",
        "largest difference",
        "mean difference",
        "top-1 agreement",
        "accuracy",
    )
    return page.Table(columns, rows, numbers=6)


def _worst(content: Mapping[str, Any], worst: Mapping[str, Array]) -> page.Pictures:
    pictures = []
    for name, image in worst.items():
        parity = content["parity"]["formats"][name]
        difference = f"difference {parity['largest_difference']:.2e}"
        pictures.append(page.Picture(image, (name, f"index {parity['worst_sample']}", difference)))
    return page.Pictures(pictures)


def _calibration(content: Mapping[str, Any]) -> Iterator[page.Section]:
    calibration = content["calibration"]
    if calibration is None:
        return
    errors = [
        (
            f"expected calibration error (ECE) {when}",
            f"{calibration[f'expected_calibration_error_{when}']:.2%}",
        )
        for when in ("before", "after")
    ]
    yield page.Section(
        "Temperature",
        f"The logits are divided by a temperature, which was fitted on {_images(calibration)}.",
        [page.Cards([("temperature", f"{calibration['temperature']:.4g}"), *errors])],
    )


def _thresholds(content: Mapping[str, Any]) -> Iterator[page.Section]:
    confidence = content["confidence"]
    if confidence is None:
        return
    rows = [threshold_row(each) for each in confidence["thresholds"]]
    yield page.Section(
        "Thresholds",
        f"The thresholds were chosen and measured on {_images(confidence)}. If the highest "
        "probability of an image is below a threshold, a server can answer "
        "\u201cunknown\u201d.",
        [page.Table(COLUMNS, rows, numbers=len(COLUMNS) - 1)],
    )


def _pixels(pixels: Comparison) -> page.Section:
    summary, total = pixels.figures, sum(pixels.levels)
    kind, given, expected = pixels.worst
    difference = np.abs(given.astype(int) - expected)
    largest = int(difference.max())
    scaled = (difference * (255 // max(1, largest))).astype(np.uint8)
    levels = [(str(n), f"{count / total:.4%}") for n, count in enumerate(pixels.levels)]
    kinds = [(name, f"{fraction:.4%}") for name, fraction in pixels.within_one_level.items()]
    pictures = (
        (given, "TensorFlow"),
        (expected, "Pillow"),
        (scaled, f"Absolute difference; white is {largest} of 255"),
    )
    return page.Section(
        "Encoded images, decoded by TensorFlow and by Pillow",
        f"{summary.images} generated images, whose heights and widths are odd numbers, were "
        f"decoded and preprocessed. {summary.within_one_level:.4%} of the resulting pixels differ "
        f"by at most 1 of 255 levels. The largest difference is {summary.largest_difference} "
        f"levels, and the mean is {summary.mean_difference:.3f}. The pictures show the image that "
        f"differs most, a {kind}.",
        [
            page.Pictures([page.Picture(image, (caption,)) for image, caption in pictures]),
            page.Table(("difference in levels", "pixels"), levels, 1, "Differences of the pixels"),
            page.Table(("kind", "within 1 level"), kinds, 1, "Agreement by kind of image"),
        ],
    )


def _graph(content: Mapping[str, Any]) -> str:
    specs = [(kind, spec) for kind in ("input", "output") for spec in content[f"{kind}s"]]
    parts = [*specs, ("preprocessing", content["preprocessing"])]
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in parts)
