"""From a Keras model to a published version: graph, formats, parity, model.json, publication."""

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns_export.contract import Model, ModelJson, Preprocessing, check_labels, write_labels
from keras_cnns_export.errors import ExportError
from keras_cnns_export.formats import FORMATS, in_order
from keras_cnns_export.graph import serving_graph
from keras_cnns_export.parity import compare
from keras_cnns_export.publish import Draft, check_model_directory
from keras_cnns_export.samples import GENERATED, Batch, batches_of, generated_batches
from keras_cnns_export.source import Quantization, Source
from keras_cnns_export.timing import median_milliseconds


def export(
    model: Any,
    to: str | os.PathLike[str],
    *,
    labels: Sequence[str],
    preprocessing: Mapping[str, Any] | None = None,
    formats: Sequence[str] = ("saved_model", "onnx"),
    outputs: Sequence[str] = ("probabilities",),
    samples: tuple[str, Any] | None = None,
    training_samples: Any = None,
    architecture: str | None = None,
    opset: int = 17,
    quantization: Quantization | None = None,
) -> Path:
    """Publish a Keras image classifier as the next version of a model repository's model.

    Every written format is run against Keras first; if one disagrees, nothing is published.

    Args:
        model: a keras.Model, raw pixels 0..255 [N, H, W, C] -> probabilities [N, K], or a dict of
            outputs of which "main" is kept.
        to: the model's directory, `models/NAME`; the version is the next free number in it.
        labels: the K classes' names, in the order of the probabilities.
        preprocessing: how an encoded image becomes the model's input, as in model.json
            ("resize_shorter", "crop", "interpolation", "antialias", "channels"); by default the
            shorter side is resized to the model's size and the centre cropped.
        formats: names from `formats.FORMATS`.
        outputs: names from `graph.OUTPUTS`.
        samples: the split's name, and what to compare on: images uint8 [N, H, W, C], a tuple
            (images, true classes), or a tf.data.Dataset of such batches. By default 256 images
            are made, and model.json has no accuracy.
        architecture: what model.json calls the network; by default the Keras model's name.
        opset: of ONNX, 13 to 18.

    Returns:
        The version's path, `models/NAME/<version>`.

    Raises:
        ExportError: an argument is wrong, a format cannot be written (a full disk too), or it
            disagrees with Keras. No version and no other file is left behind.
    """
    model_directory = check_model_directory(to)
    names = in_order(formats)
    graph = serving_graph(model, outputs)
    labels = check_labels(labels, graph.classes)
    steps = (
        Preprocessing.exactly(graph.image_shape)
        if preprocessing is None
        else Preprocessing.read(preprocessing, graph.image_shape)
    )
    split = GENERATED if samples is None else samples[0]

    def read(data: Any) -> Iterator[Batch]:
        shape = graph.image_shape
        return generated_batches(shape) if data is None else batches_of(data, shape)

    validation = None if samples is None else samples[1]
    batches = read(validation)
    source = Source(
        graph,
        labels,
        steps,
        training_batches=lambda: read(validation if training_samples is None else training_samples),
        opset=opset,
        quantization=quantization or Quantization(),
    )
    try:
        with Draft(model_directory) as draft:
            write_labels(draft.path, labels)
            entries: dict[str, dict[str, Any]] = {}
            for name in names:
                row = FORMATS[name]
                own = row.write(source, draft.path)
                entries[name] = {"engine": row.engine, "precision": row.precision, **own}
            written = {name: FORMATS[name].load(draft.path) for name in names}
            precisions = {name: FORMATS[name].precision for name in names}
            parity, metrics = compare(graph.reference(), written, batches, split, precisions)
            for name in names:
                image = np.full((1, *graph.image_shape), 127, np.uint8)
                entries[name]["milliseconds"] = median_milliseconds(written[name], image)
            ModelJson(
                name=model_directory.name,
                created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
                model=Model(architecture or model.name, graph.network.count_params()),
                inputs=graph.inputs,
                outputs=graph.outputs,
                preprocessing=steps,
                formats=entries,
                metrics=metrics,
                parity=parity,
            ).write(draft.path)
            return draft.publish()
    except OSError as error:
        raise ExportError(
            f"cannot export to {model_directory}: {error.strerror or error}; nothing was published"
        ) from error


def export_run(
    run_directory: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("saved_model", "onnx"),
    outputs: Sequence[str] = ("probabilities",),
    opset: int = 17,
) -> Path:
    """Publish what `keras-cnns train` left in a run directory, compared on its whole test split.

    Labels, preprocessing and the architecture's name come from the run; the other arguments, what
    is returned and what is raised are `export`'s.

    Raises:
        ExportError: see `export`.
        ValueError: the directory holds no finished run.
    """
    from keras_cnns.data import load_split
    from keras_cnns.training import open_run

    check_model_directory(to)
    in_order(formats)
    run = open_run(Path(run_directory))
    data = run.recipe.data
    return export(
        run.load_model(),
        to,
        labels=run.labels,
        preprocessing=data.preprocessing(),
        formats=formats,
        outputs=outputs,
        samples=(data.test_split, load_split(data, data.test_split, batch_size=64)),
        architecture=run.recipe.model.name,
        opset=opset,
    )
