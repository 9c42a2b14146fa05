"""Write report.html: a version's formats and their proof, in one self-contained page."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns.report import page
from keras_cnns_export.batches import Array
from keras_cnns_export.pixels import Comparison

REPORT = "report.html"


def write_report(
    version: Path,
    content: Mapping[str, Any],
    sizes: Mapping[str, int],
    worst: Mapping[str, Array],
    pixels: Comparison | None,
) -> None:
    """Write `version`/report.html.

    Args:
        version: its directory.
        content: the content of model.json.
        sizes: of each format's files, in bytes.
        worst: the image on which each format is furthest from Keras, uint8 [H, W, C].
        pixels: encoded images as TensorFlow and Pillow read them, if there is a SavedModel.
    """
    sections = [
        page.Section("Every format against Keras", _measured(content), _formats(content, sizes)),
        page.Section(
            "The image furthest from Keras",
            "For each format, the image with the largest difference of a probability, and that "
            "difference.",
            page.pictures(_worst(content, worst)),
        ),
        *_calibration(content),
        *([] if pixels is None else [_pixels(pixels)]),
        page.Section("The graph", "As in model.json.", page.preformatted(_graph(content))),
    ]
    title = f"{content['name']}: {content['model']['architecture']}"
    exported = f"{content['model']['parameters']:,} parameters, exported {content['created']}"
    text = page.render(title, exported, "", sections)
    (version / REPORT).write_text(text, encoding="utf-8")


def _measured(content: Mapping[str, Any]) -> str:
    parity, metrics = content["parity"], content["metrics"]
    accuracy = "there are no labels to measure an accuracy by"
    if metrics:
        accuracy = f"Keras' accuracy is {metrics['accuracy']:.2%} on {_images(metrics)}"
    words = f"Compared on {_images(parity)}; {accuracy}."
    own = parity["own_precision"]
    if own is not None:
        words += (
            f" The model computes in {own['policy']} and is exported in float32. Its own answers "
            f"differ from it by up to {own['largest_difference']:.2e} (mean "
            f"{own['mean_difference']:.2e}); top-1 agreement {own['top_1_agreement']:.2%}."
        )
    return words


def _images(figures: Mapping[str, Any]) -> str:
    return f"{figures['samples']:,} images of {figures['split']}"


def _formats(content: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    rows = []
    for name, figures in content["parity"]["formats"].items():
        entry, accuracy = content["formats"][name], figures["accuracy"]
        rows.append(
            (
                name,
                entry["engine"],
                entry["precision"],
                f"{sizes[name] / 1e6:,.2f}",
                f"{entry['milliseconds']:.3g}",
                f"{figures['largest_difference']:.2e}",
                f"{figures['mean_difference']:.2e}",
                f"{figures['top_1_agreement']:.2%}",
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
    return page.table(columns, rows, numbers=6)


def _worst(content: Mapping[str, Any], worst: Mapping[str, Array]) -> Iterator[str]:
    for name, image in worst.items():
        figures = content["parity"]["formats"][name]
        difference = f"{figures['largest_difference']:.2e}"
        yield page.picture(image, (name, f"image {figures['worst_sample']}", difference))


def _calibration(content: Mapping[str, Any]) -> Iterator[page.Section]:
    calibration = content["calibration"]
    if calibration is not None:
        yield page.Section(
            "Temperature",
            f"The logits are divided by a temperature fitted on {_images(calibration)}.",
            page.cards(
                [
                    ("temperature", f"{calibration['temperature']:.4g}"),
                    *(
                        (
                            f"calibration error (ECE) {when}",
                            f"{calibration[f'expected_calibration_error_{when}']:.2%}",
                        )
                        for when in ("before", "after")
                    ),
                ]
            ),
        )


def _pixels(pixels: Comparison) -> page.Section:
    figures, total = pixels.figures, sum(pixels.levels)
    kind, given, expected = pixels.worst
    apart = np.abs(given.astype(int) - expected)
    largest = int(apart.max())
    shown = (apart * (255 // max(1, largest))).astype(np.uint8)
    levels = [(str(n), f"{count / total:.4%}") for n, count in enumerate(pixels.levels)]
    kinds = [(name, f"{fraction:.4%}") for name, fraction in pixels.within_one_level.items()]
    worst = (
        (given, "TensorFlow"),
        (expected, "Pillow"),
        (shown, f"Where they differ; white is {largest} of 255"),
    )
    return page.Section(
        "Encoded images, read by TensorFlow and by Pillow",
        f"{figures.images} images of odd sizes, preprocessed: {figures.within_one_level:.4%} of "
        "the pixels agree to within 1 level of 255; the largest difference is "
        f"{figures.largest_difference}, the mean {figures.mean_difference:.3f}. The image that "
        f"differs most, a {kind}, is shown.",
        page.pictures(page.picture(image, (caption,)) for image, caption in worst)
        + page.table(("levels apart", "pixels"), levels, numbers=1)
        + page.table(("kind", "within 1 level"), kinds, numbers=1),
    )


def _graph(content: Mapping[str, Any]) -> str:
    specs = [(kind, spec) for kind in ("input", "output") for spec in content[f"{kind}s"]]
    parts = [*specs, ("preprocessing", content["preprocessing"])]
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in parts)
