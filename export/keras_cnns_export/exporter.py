"""Publish a Keras model as a version: write its formats, compare them with Keras, and publish."""

import dataclasses
import datetime
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns_export.batches import (
    BATCH_SIZE,
    GENERATED,
    Array,
    Batch,
    CachedBatches,
    Predict,
    batches_of,
    first,
    generated_batches,
    shuffled_split,
)
from keras_cnns_export.calibration import calibrate as fit_calibration
from keras_cnns_export.confidence import ConfidenceRecorder
from keras_cnns_export.contract import (
    Calibration,
    Metrics,
    Model,
    ModelJson,
    Preprocessing,
    check_labels,
    write_labels,
)
from keras_cnns_export.errors import ExportError, FormatError, failures_of, raises_export_error
from keras_cnns_export.formats import FORMATS, in_order, leave_out, median_milliseconds, size_of
from keras_cnns_export.golden import GoldenSamples
from keras_cnns_export.graph import ServingGraph, Source, serving_graph
from keras_cnns_export.network import load_model
from keras_cnns_export.options import ExportOptions, takes_options
from keras_cnns_export.parity import compare
from keras_cnns_export.pixels import check_pixels
from keras_cnns_export.publish import Draft, check_model_directory
from keras_cnns_export.report import write_report
from keras_cnns_export.server_files import server_files


@takes_options
def export(
    model: Any,
    to: str | os.PathLike[str],
    options: ExportOptions | None = None,
    **changes: Any,
) -> Path:
    """Publish a Keras image classifier as the next version of a model in a repository.

    Before that, every written format is compared with Keras. If one fails or disagrees, nothing is
    published, and the error names the format and says how to leave it out.

    Args:
        model: a keras.Model, or the path of a .keras file. The input of the model is raw pixels,
            0..255 [N, H, W, C]. Its output is probabilities [N, K], or a dict that contains these
            probabilities under the key "main". A model with one sigmoid unit, p = sigmoid(z) of
            shape [N, 1], is exported with two classes: probabilities [1 - p, p] and logits [0, z].
        to: the model's directory, `models/NAME`; the version is the next free number in it.
        options: an `ExportOptions`, which documents every option.
        changes: fields of `ExportOptions` as keyword arguments, such as `labels=["zero", "one"]`;
            they replace the fields of `options`.

    Returns:
        The version's path, `models/NAME/<version>`.

    Raises:
        ExportError: an option is wrong, a format disagrees with Keras, or a format cannot be
            written, for example because the disk is full. If another library raised the original
            exception, `__cause__` contains it. No version and no other file is left behind.
        TypeError: `changes` has a keyword that is not an option.
    """
    return _export(model, to, (options or ExportOptions()).replace(changes))


@takes_options
def export_run(
    run_directory: str | os.PathLike[str],
    to: str | os.PathLike[str],
    options: ExportOptions | None = None,
    **changes: Any,
) -> Path:
    """Publish a run of `keras-cnns train`, after a comparison on its whole validation split.

    Labels, preprocessing, the architecture's name and the accuracy on the test split are read from
    the run, unless the options specify them. int8 formats measure the ranges of activations on
    images of the shuffled training split. The validation split is decoded once. Of the training
    split, only the images that int8 formats need are decoded. Options, result and errors are those
    of `export`.

    Raises:
        ExportError: the directory contains no finished run, or an error of `export` occurs.
    """
    return _export_run(run_directory, to, (options or ExportOptions()).replace(changes))


@raises_export_error
def _export_run(
    run_directory: str | os.PathLike[str], to: str | os.PathLike[str], options: ExportOptions
) -> Path:
    from keras_cnns.data import Splits
    from keras_cnns.training import open_run

    check_model_directory(to)
    in_order(options.formats)
    run = open_run(Path(run_directory))
    data, splits = run.recipe.data, Splits(run.recipe.data)
    run.check_classes(splits.labels)
    validation = splits.open(data.validation_split, batch_size=BATCH_SIZE, in_memory=False)
    test = run.results().get("test")
    of_run = {
        "labels": run.labels,
        "preprocessing": data.preprocessing().to_dict(),
        "samples": (data.validation_split, validation),
        "training_samples": shuffled_split(splits, data.train_split),
        "architecture": run.recipe.model.name,
        "metrics": test and Metrics(data.test_split, test["samples"], test["accuracy"]),
    }
    missing = {name: value for name, value in of_run.items() if getattr(options, name) is None}
    model = load_model(run.path / "model.keras", trust=options.trust)
    return _export(model, to, options.replace(missing))


@raises_export_error
def _export(model: Any, to: str | os.PathLike[str], options: ExportOptions) -> Path:
    model_directory = check_model_directory(to)
    names = in_order(options.formats)
    if isinstance(model, str | os.PathLike):
        model = load_model(model, trust=options.trust)
    split, validation = (GENERATED, None) if options.samples is None else options.samples
    has_int8 = any(FORMATS[name].precision == "int8" for name in names)
    is_read_twice = options.calibrate or (has_int8 and options.training_samples is None)
    if is_read_twice and not isinstance(validation, np.ndarray | tuple | None):
        validation = CachedBatches(validation)
    graph, calibration = _calibrated_graph(model, options, validation, split)
    source = _source(graph, options, validation, model_directory.name)
    try:
        with Draft(model_directory) as draft:
            write_labels(draft.path, source.labels)
            entries = {name: _write(name, source, draft.path) for name in names}
            written = {name: _load(name, draft.path) for name in names}
            precisions = {name: FORMATS[name].precision for name in names}
            batches = _batches(validation, graph)
            golden = GoldenSamples(graph.image_shape, graph.classes)
            confidence = ConfidenceRecorder()

            def observe(batch: Batch, expected: Array, given: Mapping[str, Array]) -> None:
                golden.add(batch[0], expected, given)
                confidence.add(expected, batch[1])

            parity, measured, worst = compare(
                *(graph.reference(), written, batches, split, precisions, graph.own),
                observe=observe,
            )
            image = np.full((1, *graph.image_shape), 127, np.uint8)
            for name in names:
                with failures_of(name):
                    entries[name]["milliseconds"] = median_milliseconds(written[name], image)
            pixels = check_pixels(source.preprocessing) if "saved_model" in names else None
            content = ModelJson(
                name=model_directory.name,
                created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
                model=Model(options.architecture or model.name, graph.network.count_params()),
                inputs=graph.inputs,
                outputs=graph.outputs,
                preprocessing=source.preprocessing,
                formats=entries,
                metrics=options.metrics or measured,
                parity=parity,
                calibration=calibration,
                confidence=confidence.result(split),
                pixels=None if pixels is None else pixels.figures,
                golden=golden.write(draft.path) if options.golden else None,
            )
            if options.report:
                sizes = {name: size_of(name, draft.path) for name in names}
                write_report(draft.path, dataclasses.asdict(content), sizes, worst, pixels)
            content.write(draft.path)
            return draft.publish(
                server_files(content, source.labels, options.storage_uri, kserve=options.kserve)
            )
    except FormatError as error:
        advice = leave_out(error.format, options.formats)
        raise ExportError(f"{error}{advice}") from error.__cause__
    except OSError as error:
        raise ExportError(
            f"cannot export to {model_directory}: {error.strerror or error}; nothing was published"
        ) from error


def _batches(data: Any, graph: ServingGraph) -> Iterator[Batch]:
    shape = graph.image_shape
    return generated_batches(shape) if data is None else batches_of(data, shape, graph.classes)


def _calibrated_graph(
    model: Any, options: ExportOptions, validation: Any, split: str
) -> tuple[ServingGraph, Calibration | None]:
    """Return the serving graph and its temperature scaling, which is None unless requested."""
    mode = options.preprocess_input
    if not options.calibrate:
        return serving_graph(model, options.outputs, preprocess_input=mode), None
    graph = serving_graph(model, ("logits",), preprocess_input=mode)
    calibration = fit_calibration(graph, _batches(validation, graph), split)
    temperature = calibration.temperature
    graph = serving_graph(model, options.outputs, preprocess_input=mode, temperature=temperature)
    return graph, calibration


def _source(graph: ServingGraph, options: ExportOptions, validation: Any, name: str) -> Source:
    @functools.cache
    def training_batch() -> Batch:
        """Return the images on which all int8 formats are calibrated; read them only once."""
        data = validation if options.training_samples is None else options.training_samples
        return first(_batches(data, graph), options.quantization.samples)

    labels, preprocessing = options.labels, options.preprocessing
    if labels is None:
        labels = [str(number) for number in range(graph.classes)]
    return Source(
        graph,
        check_labels(labels, graph.classes),
        Preprocessing.for_shape(graph.image_shape)
        if preprocessing is None
        else Preprocessing.from_dict(preprocessing, graph.image_shape),
        training_batches=lambda: iter([training_batch()]),
        name=name,
        opset=options.opset,
        quantization=options.quantization,
    )


def _write(name: str, source: Source, version: Path) -> dict[str, Any]:
    row = FORMATS[name]
    with failures_of(name):
        entry = row.write(source, version)
    return {"engine": row.engine, "precision": row.precision, **entry}


def _load(name: str, version: Path) -> Predict:
    with failures_of(name):
        return FORMATS[name].load(version)
