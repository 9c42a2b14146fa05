"""Publish a Keras model as a version: graph, formats, parity, model.json, publication."""

import dataclasses
import datetime
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnns_export import triton
from keras_cnns_export.calibration import calibrate as fit_calibration
from keras_cnns_export.contract import (
    LABELS,
    Metrics,
    Model,
    ModelJson,
    Preprocessing,
    check_labels,
    write_labels,
)
from keras_cnns_export.errors import ExportError, FormatError, failures_of, raises_export_error
from keras_cnns_export.formats import FORMATS, in_order, leave_out, size_of
from keras_cnns_export.graph import Predict, serving_graph
from keras_cnns_export.model_file import load_model
from keras_cnns_export.parity import compare
from keras_cnns_export.pixels import Comparison, compare_pixels
from keras_cnns_export.publish import Draft, check_model_directory
from keras_cnns_export.report import write_report
from keras_cnns_export.samples import (
    BATCH_SIZE,
    GENERATED,
    Batch,
    Kept,
    batches_of,
    first,
    generated_batches,
    shuffled_split,
)
from keras_cnns_export.source import Quantization, Source
from keras_cnns_export.timing import median_milliseconds

MIN_WITHIN_ONE_LEVEL = 0.999  # of the pixels that TensorFlow and Pillow read


@raises_export_error
def export(
    model: Any,
    to: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    formats: Sequence[str] = ("saved_model", "onnx"),
    outputs: Sequence[str] = ("probabilities",),
    samples: tuple[str, Any] | None = None,
    training_samples: Any = None,
    preprocess_input: str | None = None,
    calibrate: bool = False,
    report: bool = False,
    kserve: bool = False,
    storage_uri: str | None = None,
    trust: bool = False,
    architecture: str | None = None,
    metrics: Metrics | None = None,
    opset: int = 17,
    quantization: Quantization | None = None,
) -> Path:
    """Publish a Keras image classifier as the next version of a model repository's model.

    Every written format is compared with Keras first. If one fails or disagrees, nothing is
    published, and the error names the format and how to leave it out.

    Args:
        model: a keras.Model or the path of a .keras file: raw pixels 0..255 [N, H, W, C] ->
            probabilities [N, K], or a dict of outputs of which "main" is these. One sigmoid unit
            [N, 1] is exported as two classes, probabilities [1 - p, p] and logits [0, z].
        to: the model's directory, `models/NAME`; the version is the next free number in it.
        labels: the K classes' names, in the order of the probabilities; by default their numbers.
        preprocessing: how an encoded image becomes the model's input, as in model.json
            ("resize_shorter", "crop", "interpolation", "antialias", "channels"); by default the
            shorter side is resized to the model's size and the centre cropped.
        formats: names from `formats.FORMATS`.
        outputs: names from `heads.OUTPUTS`; `probabilities` is always there.
        samples: the split's name, and what to compare on: images uint8 [N, H, W, C], a tuple
            (images, true classes), or an iterable of such batches, which is read once. By default
            256 images are made, and model.json has no accuracy.
        training_samples: what int8 formats take their ranges from, in the forms of `samples`; by
            default these.
        preprocess_input: "caffe", "tf" or "torch" for a model of keras.applications whose input
            is the result of this mode of `preprocess_input`; the graph then computes it.
        calibrate: fit a temperature on `samples`, which must have true classes, and fold it in.
        report: write report.html into the version.
        kserve: write a KServe InferenceService manifest beside the versions.
        storage_uri: the URI of the model's directory in the manifest.
        trust: run Python code that a .keras file carries.
        architecture: the network's name in model.json; by default the Keras model's name.
        metrics: the model's accuracy in model.json; by default that on `samples`.
        opset: the version of ONNX's operator set, 13 to 18.
        quantization: how int8 formats choose their ranges.

    Returns:
        The version's path, `models/NAME/<version>`.

    Raises:
        ExportError: an argument is wrong, a format cannot be written (a full disk too), or it
            disagrees with Keras; `__cause__` is another library's exception. No version and no
            other file is left behind.
    """
    model_directory = check_model_directory(to)
    names = in_order(formats)
    if isinstance(model, str | os.PathLike):
        model = load_model(model, trust=trust)
    split, validation = (GENERATED, None) if samples is None else samples
    has_int8 = any(FORMATS[name].precision == "int8" for name in names)
    is_read_twice = calibrate or (has_int8 and training_samples is None)
    if is_read_twice and not isinstance(validation, np.ndarray | tuple | None):
        validation = Kept(validation)

    def read(data: Any) -> Iterator[Batch]:
        shape = graph.image_shape
        return generated_batches(shape) if data is None else batches_of(data, shape)

    temperature = calibration = None
    if calibrate:
        graph = serving_graph(model, ("logits",), preprocess_input=preprocess_input)
        calibration = fit_calibration(graph, read(validation), split)
        temperature = calibration.temperature
    graph = serving_graph(
        model, outputs, preprocess_input=preprocess_input, temperature=temperature
    )
    if labels is None:
        labels = [str(number) for number in range(graph.classes)]
    steps = (
        Preprocessing.exactly(graph.image_shape)
        if preprocessing is None
        else Preprocessing.read(preprocessing, graph.image_shape)
    )
    quantization = quantization or Quantization()

    @functools.cache
    def calibration_batch() -> Batch:
        """Read what several int8 formats share."""
        data = validation if training_samples is None else training_samples
        return first(read(data), quantization.samples)

    source = Source(
        graph,
        check_labels(labels, graph.classes),
        steps,
        training_batches=lambda: iter([calibration_batch()]),
        name=model_directory.name,
        opset=opset,
        quantization=quantization,
    )
    try:
        with Draft(model_directory) as draft:
            write_labels(draft.path, source.labels)
            entries = {name: _write(name, source, draft.path) for name in names}
            written = {name: _load(name, draft.path) for name in names}
            precisions = {name: FORMATS[name].precision for name in names}
            parity, measured, worst = compare(
                graph.reference(), written, read(validation), split, precisions, graph.own
            )
            image = np.full((1, *graph.image_shape), 127, np.uint8)
            for name in names:
                with failures_of(name):
                    entries[name]["milliseconds"] = median_milliseconds(written[name], image)
            pixels = _compare_pixels(source) if "saved_model" in names else None
            content = ModelJson(
                name=model_directory.name,
                created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
                model=Model(architecture or model.name, graph.network.count_params()),
                inputs=graph.inputs,
                outputs=graph.outputs,
                preprocessing=steps,
                formats=entries,
                metrics=metrics or measured,
                parity=parity,
                calibration=calibration,
                pixels=None if pixels is None else pixels.figures,
            )
            if report:
                sizes = {name: size_of(name, draft.path) for name in names}
                write_report(draft.path, dataclasses.asdict(content), sizes, worst, pixels)
            content.write(draft.path)
            beside = _beside(content, source, storage_uri, kserve=kserve)
            return draft.publish(beside)
    except FormatError as error:
        raise ExportError(f"{error}{leave_out(error.format, formats)}") from error.__cause__
    except OSError as error:
        raise ExportError(
            f"cannot export to {model_directory}: {error.strerror or error}; nothing was published"
        ) from error


@raises_export_error
def export_run(
    run_directory: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    trust: bool = False,
    **options: Any,
) -> Path:
    """Publish a run of `keras-cnns train`, compared on its whole validation split.

    Labels, preprocessing, the architecture's name and the accuracy on the test split come from the
    run, and the ranges of int8 formats from its training split, shuffled. The validation split is
    decoded once, whatever its size, and of the training split only the images that int8 formats
    need. `options` and the result are those of `export`.

    Raises:
        ExportError: the directory holds no finished run; and see `export`.
    """
    from keras_cnns.data import Splits
    from keras_cnns.training import open_run

    check_model_directory(to)
    in_order(options.get("formats", ("onnx",)))
    run = open_run(Path(run_directory))
    data, splits = run.recipe.data, Splits(run.recipe.data)
    validation = splits.open(data.validation_split, batch_size=BATCH_SIZE, in_memory=False)
    test = run.results().get("test")
    return export(
        load_model(run.path / "model.keras", trust=trust),
        to,
        labels=run.labels,
        preprocessing=data.preprocessing().to_dict(),
        samples=(data.validation_split, validation),
        training_samples=shuffled_split(splits, data.train_split),
        architecture=run.recipe.model.name,
        metrics=test and Metrics(data.test_split, test["samples"], test["accuracy"]),
        **options,
    )


def _write(name: str, source: Source, version: Path) -> dict[str, Any]:
    row = FORMATS[name]
    with failures_of(name):
        own = row.write(source, version)
    return {"engine": row.engine, "precision": row.precision, **own}


def _load(name: str, version: Path) -> Predict:
    with failures_of(name):
        return FORMATS[name].load(version)


@failures_of("saved_model")
def _compare_pixels(source: Source) -> Comparison:
    """Compare how TensorFlow, in the SavedModel, and Pillow read encoded images."""
    import tensorflow as tf

    from keras_cnns_export.image_bytes import decode_batch

    decode = tf.function(
        lambda image_bytes: decode_batch(image_bytes, source.preprocessing),
        input_signature=[tf.TensorSpec((None,), tf.string)],
        autograph=False,
    )
    comparison = compare_pixels(
        lambda contents: decode(tf.constant(contents)).numpy(), source.preprocessing
    )
    fraction = comparison.figures.within_one_level
    if fraction < MIN_WITHIN_ONE_LEVEL:
        raise FormatError(
            "saved_model",
            "saved_model: TensorFlow and Pillow read encoded images differently: "
            f"{fraction:.3%} of the pixels agree to one level, and at least "
            f"{MIN_WITHIN_ONE_LEVEL:.1%} must; the worst is a {comparison.worst[0]}",
        )
    return comparison


def _beside(
    content: ModelJson, source: Source, storage_uri: str | None, *, kserve: bool
) -> dict[str, str]:
    """The files beside the versions, by name: what Triton and KServe read."""
    files: dict[str, str] = {}
    if "onnx" in content.formats:
        files[LABELS] = "".join(f"{label}\n" for label in source.labels)
        files[triton.CONFIG] = triton.triton_config(
            content.name, content.inputs, content.outputs, content.formats
        )
    if kserve:
        files[triton.MANIFEST] = triton.kserve_manifest(content.name, content.formats, storage_uri)
    return files
