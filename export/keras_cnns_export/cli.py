"""`keras-cnns export` publishes a run or a .keras file as a version of a model."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns_export.errors import ExportError, check_names
from keras_cnns_export.formats import FORMATS, in_order, size_of
from keras_cnns_export.formats.onnx_int8 import METHODS
from keras_cnns_export.options import ExportOptions, Quantization
from keras_cnns_export.publish import check_model_directory

_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@_app.command(
    epilog="Example: keras-cnns train --recipe digits-resnet20 --run runs/first && "
    "keras-cnns export runs/first --to models/digits --outputs probabilities,cam --report"
)
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="The run directory of `keras-cnns train`, or a .keras file."
        ),
    ],
    to: Annotated[Path, typer.Option(metavar="models/NAME", help="The directory of the model.")],
    formats: Annotated[
        str, typer.Option(metavar="NAME,NAME", help=f"The formats to write: {', '.join(FORMATS)}.")
    ] = "saved_model,onnx",
    outputs: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="The outputs: probabilities, logits, top_k, cam, features, aux1, aux2.",
        ),
    ] = "probabilities",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature on the validation split.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html into the version.")
    ] = False,
    no_golden: Annotated[
        bool,
        typer.Option(
            "--no-golden",
            help="Do not write golden.npy, a file with up to 8 images of the validation split. A "
            "server checks the loaded version with these images.",
        ),
    ] = False,
    kserve: Annotated[
        bool, typer.Option("--kserve", help="Write a KServe manifest beside the versions.")
    ] = False,
    storage_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="The URI of models/NAME in the KServe manifest; this option implies --kserve.",
        ),
    ] = None,
    int8_samples: Annotated[
        int,
        typer.Option(
            min=1,
            help="The number of training images on which int8 formats measure the ranges of "
            "tensors.",
        ),
    ] = Quantization.samples,
    int8_method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The method by which int8 formats choose the ranges of tensors: minmax, entropy "
            "or percentile.",
        ),
    ] = Quantization.method,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="For a .keras file: the names of its classes, one per line."
        ),
    ] = None,
    preprocess_input: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="For a .keras file with a model of keras.applications: the mode of its "
            "preprocess_input (caffe, tf or torch). The exported graph then includes this "
            "preprocessing.",
        ),
    ] = None,
    opset: Annotated[
        int, typer.Option(min=13, max=18, help="The version of ONNX's operator set.")
    ] = 17,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run Python code that the model file contains.")
    ] = False,
) -> None:
    """Publish a model as the next version of models/NAME if every format agrees with Keras.

    The versions are numbered: models/NAME/1, models/NAME/2 and so on. TensorFlow Serving, Triton
    and keras-cnns-serve load them without changes. If a format fails or disagrees with Keras,
    nothing is published, and the error says how to leave that format out.
    """
    names = _names(formats)
    with _usage("--formats"):
        in_order(names)
    with _usage("--to"):
        check_model_directory(to)
    with _usage("--int8-method"):
        check_names("method", [int8_method], METHODS)
    is_file = source.suffix == ".keras"
    for option, value in (("--labels", labels), ("--preprocess-input", preprocess_input)):
        if value is not None and not is_file:
            raise typer.BadParameter(
                f"{source} is no .keras file, and the option is only for .keras files",
                param_hint=option,
            )
    options = ExportOptions(
        labels=None if labels is None else _read_labels(labels),
        formats=names,
        outputs=_names(outputs),
        preprocess_input=preprocess_input,
        calibrate=calibrate,
        report=report,
        golden=not no_golden,
        kserve=kserve or storage_uri is not None,
        storage_uri=storage_uri,
        trust=trust,
        opset=opset,
        quantization=Quantization(int8_samples, int8_method),
    )
    typer.echo(f"exporting {source} as {', '.join(names)}")
    _load_tensorflow()
    from keras_cnns_export import exporter
    from keras_cnns_export.network import OUTPUTS

    with _usage("--outputs"):
        check_names("output", options.outputs, OUTPUTS)
    publish = exporter.export if is_file else exporter.export_run
    version = publish(source, to, options)
    typer.echo(summary(version))
    typer.echo(f"published {version}")


def _names(option: str) -> list[str]:
    return [name.strip() for name in option.split(",") if name.strip()]


def _read_labels(path: Path) -> list[str]:
    from keras_cnns.files import read_labels

    try:
        return list(read_labels(path))
    except OSError as error:
        reason = f"cannot read {path}: {error.strerror}"
        raise typer.BadParameter(reason, param_hint="--labels") from error
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--labels") from error


def main(arguments: list[str] | None = None, program: str = "keras-cnns export") -> int:
    """Publish a run or a .keras file as SavedModel and ONNX, after a comparison with Keras.

    Args:
        arguments: the arguments without the program's name; by default, the arguments of the
            process.
        program: the command's name in `--help` and errors.

    Returns:
        The exit status: 0 after a publication, 1 if the export failed, 2 for bad usage.
    """
    from keras_cnns.cli import run

    return run(_app, sys.argv[1:] if arguments is None else arguments, program)


def summary(version: Path) -> str:
    """Return a summary of a published version; its first lines compare the formats with Keras."""
    # Imported here, since importing SciPy takes time.
    from keras_cnns.runs.selective import thresholds_in

    content = json.loads((version / "model.json").read_text(encoding="utf-8"))
    parity, metrics = content["parity"], content["metrics"]
    rows = []
    for name, result in parity["formats"].items():
        columns = [
            f"{name:<18} {size_of(name, version) / 1e6:8.2f} MB",
            f"largest difference {result['largest_difference']:.1e}",
            f"top-1 agreement {result['top_1_agreement']:.2%}",
        ]
        if result["accuracy"] is not None:
            columns.append(f"accuracy {result['accuracy']:.2%}")
        rows.append(f"  {'   '.join(columns)}")
    first = f"compared with Keras on {parity['samples']} images ({parity['split']})"
    lines = [first + ":", *rows]
    own = parity.get("own_precision")
    if own is not None:
        lines.append(
            f"exported in float32: the probabilities of the model itself, in {own['policy']}, "
            f"differ from those in float32 by up to {own['largest_difference']:.1e}, top-1 "
            f"agreement {own['top_1_agreement']:.2%}"
        )
    if metrics is not None:
        split, accuracy = metrics["split"], metrics["accuracy"]
        lines.append(f"accuracy {accuracy:.2%} on {metrics['samples']} images ({split})")
    calibration = content.get("calibration")
    if calibration is not None:
        before, after = (
            calibration[f"expected_calibration_error_{when}"] for when in ("before", "after")
        )
        lines.append(
            f"temperature {calibration['temperature']:.3f}: expected calibration error "
            f"{before:.2%} before, {after:.2%} after"
        )
    if chosen := [each for each in thresholds_in(content) if each["min_accuracy"]]:
        best = chosen[-1]
        lines.append(
            f"threshold {best['threshold']}: {best['coverage']:.2%} of the images reach it, "
            f"{best['accuracy']:.2%} of these are correct"
            if best["threshold"]
            else f"no threshold is needed for an accuracy of {best['min_accuracy']:.0%}: without "
            f"one, {best['accuracy']:.2%} of the answers are correct "
            f"({content['confidence']['split']})"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def _usage(option: str) -> Iterator[None]:
    """Report an ExportError within the block as bad usage of an option."""
    try:
        yield
    except ExportError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _load_tensorflow() -> None:
    """Import TensorFlow and find its devices, without its messages about missing GPUs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # 2: errors only
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    with quiet_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
