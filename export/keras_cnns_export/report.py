"""Write report.html: a version's formats and their proof, in one self-contained page."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_cnns_export.graph import Array
from keras_cnns_export.pixels import Comparison

REPORT = "report.html"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: left }
th { border-bottom: 1px solid #888 } td.number { text-align: right }
img { image-rendering: pixelated; height: 10rem; margin-right: 1rem } figure { margin: 1rem 0 }
"""


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
    parts = [*_formats(content, sizes), *_worst(content, worst), *_calibration(content)]
    if pixels is not None:
        parts += _pixels(pixels)
    described = {key: content[key] for key in ("inputs", "outputs", "preprocessing")}
    parts += ["<h2>The graph</h2>", f"<pre>{html.escape(json.dumps(described, indent=1))}</pre>"]
    title = html.escape(f"{content['name']}: {content['model']['architecture']}")
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1>"
        f"<p>{content['model']['parameters']:,} parameters, exported {content['created']}.</p>"
        + "\n".join(parts)
    )
    (version / REPORT).write_text(page + "</html>\n", encoding="utf-8")


def _formats(content: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterable[str]:
    parity, metrics = content["parity"], content["metrics"]
    yield "<h2>Every format against Keras</h2>"
    measured = "there are no labels to measure an accuracy by"
    if metrics:
        measured = f"Keras' accuracy is {metrics['accuracy']:.2%} on {_images(metrics)}"
    yield f"<p>Compared on {_images(parity)}; {measured}.</p>"
    rows = []
    for name, figures in parity["formats"].items():
        entry, accuracy = content["formats"][name], figures["accuracy"]
        rows.append(
            (
                name,
                f"{entry['engine']}, {entry['precision']}",
                f"{sizes[name] / 1e6:,.2f} MB",
                f"{entry['milliseconds']:.3g} ms",
                f"{figures['largest_difference']:.2e}",
                f"{figures['mean_difference']:.2e}",
                f"{figures['top_1_agreement']:.2%}",
                "" if accuracy is None else f"{accuracy:.2%}",
            )
        )
    own = parity["own_precision"]
    if own is not None:
        yield f"<p>The model computes in {html.escape(own['policy'])} and is exported in "
        yield f"float32. Its own answers differ from it by up to {own['largest_difference']:.2e} "
        yield f"(mean {own['mean_difference']:.2e}); top-1 agreement "
        yield f"{own['top_1_agreement']:.2%}.</p>"
    head = (
        "format",
        "runs by",
        "size",
        "one image",
        "largest difference",
        "mean",
        "top-1 agreement",
    )
    yield _table((*head, "accuracy"), rows)


def _images(figures: Mapping[str, Any]) -> str:
    return f"{figures['samples']:,} images of <b>{html.escape(figures['split'])}</b>"


def _worst(content: Mapping[str, Any], worst: Mapping[str, Array]) -> Iterable[str]:
    yield "<h3>The sample furthest from Keras</h3>"
    for name, image in worst.items():
        index = content["parity"]["formats"][name]["worst_sample"]
        yield _figure([image], f"{name}: sample {index}")


def _calibration(content: Mapping[str, Any]) -> Iterable[str]:
    calibration = content["calibration"]
    if calibration is not None:
        before = calibration["expected_calibration_error_before"]
        after = calibration["expected_calibration_error_after"]
        yield "<h2>Temperature</h2>"
        yield f"<p>{calibration['temperature']:.4g}, fitted on {calibration['samples']:,} images "
        yield f"of {html.escape(calibration['split'])}: the expected calibration error went from "
        yield f"{before:.2%} to {after:.2%}.</p>"


def _pixels(pixels: Comparison) -> Iterable[str]:
    figures = pixels.figures
    yield "<h2>Encoded images, read by TensorFlow and by Pillow</h2>"
    yield f"<p>{figures.images} images of odd sizes, preprocessed: {figures.within_one_level:.4%} "
    yield "of the pixels agree to within 1 level of 255; the largest difference is "
    yield f"{figures.largest_difference}, the mean {figures.mean_difference:.3f}.</p>"
    total = sum(pixels.levels)
    shares = [(str(n), f"{count / total:.4%}") for n, count in enumerate(pixels.levels)]
    yield _table(("levels apart", "pixels"), shares)
    kinds = [(kind, f"{share:.4%}") for kind, share in pixels.within_one_level.items()]
    yield _table(("kind", "within 1 level"), kinds)
    kind, given, expected = pixels.worst
    apart = np.abs(given.astype(int) - expected)
    shown = (apart * (255 // max(1, int(apart.max())))).astype(np.uint8)
    yield _figure(
        [given, expected, shown],
        f"The image that differs most, a {kind}: TensorFlow, Pillow, and where they differ "
        f"(white: {int(apart.max())} of 255).",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = [f"<tr>{cells}</tr>"]
    for first, *others in rows:
        numbers = "".join(f'<td class="number">{html.escape(value)}</td>' for value in others)
        lines.append(f"<tr><td>{html.escape(first)}</td>{numbers}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _figure(images: Iterable[Array], caption: str) -> str:
    shown = "".join(f'<img alt="" src="data:image/png;base64,{_png(image)}">' for image in images)
    return f"<figure>{shown}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _png(image: Array) -> str:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
