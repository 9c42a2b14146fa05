"""`keras-cnns export`: a run directory becomes a published version."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns_export.errors import ExportError, check_names
from keras_cnns_export.formats import FORMATS, in_order, size_of
from keras_cnns_export.onnx_int8 import METHODS
from keras_cnns_export.publish import check_model_directory
from keras_cnns_export.source import Quantization

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(
    epilog="Example: keras-cnns train --recipe digits-resnet20 --run runs/first && "
    "keras-cnns export runs/first --to models/digits --outputs probabilities,cam --report"
)
def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="What `keras-cnns train` left, or a .keras file."),
    ],
    to: Annotated[Path, typer.Option(metavar="models/NAME", help="The model's directory.")],
    formats: Annotated[
        str, typer.Option(metavar="NAME,NAME", help=f"Some of: {', '.join(FORMATS)}.")
    ] = "saved_model,onnx",
    outputs: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="Some of: probabilities, logits, top_k, cam, features, aux1, aux2.",
        ),
    ] = "probabilities",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature on the validation split.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html into the version.")
    ] = False,
    kserve: Annotated[
        bool, typer.Option("--kserve", help="Write a KServe manifest beside the versions.")
    ] = False,
    storage_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Where the manifest says that models/NAME lies."),
    ] = None,
    int8_samples: Annotated[
        int, typer.Option(min=1, help="Training images that int8 takes its ranges from.")
    ] = Quantization.samples,
    int8_method: Annotated[
        str, typer.Option(metavar="NAME", help="How: minmax, entropy or percentile.")
    ] = Quantization.method,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For a .keras file: its classes' names, one a line."),
    ] = None,
    preprocess_input: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="For a net of keras.applications: its preprocess_input, caffe, tf or torch, "
            "goes into the graph.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option(min=13, max=18, help="Of ONNX.")] = 17,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run Python code that the model file carries.")
    ] = False,
) -> None:
    """Publish a model as the next version of models/NAME, every format proven equal to Keras.

    The version, models/NAME/1, 2 ..., is one that TensorFlow Serving, Triton and keras-cnns-serve
    load as it is. If a format fails or disagrees with Keras, nothing is published, and the error
    says how to leave that format out.
    """
    names, wanted = _names(formats), _names(outputs)
    with _usage("--formats"):
        in_order(names)
    with _usage("--to"):
        check_model_directory(to)
    with _usage("--int8-method"):
        check_names("method", [int8_method], METHODS)
    is_file = source.suffix == ".keras"
    for option, value in (("--labels", labels), ("--preprocess-input", preprocess_input)):
        if value is not None and not is_file:
            raise typer.BadParameter(f"{source} is no .keras file", param_hint=option)
    typer.echo(f"exporting {source} as {', '.join(names)}")
    _load_tensorflow()
    from keras_cnns_export.exporter import export as export_model
    from keras_cnns_export.exporter import export_run
    from keras_cnns_export.heads import OUTPUTS

    with _usage("--outputs"):
        check_names("output", wanted, OUTPUTS)
    options: dict[str, Any] = {
        "formats": names,
        "outputs": wanted,
        "calibrate": calibrate,
        "report": report,
        "kserve": kserve or storage_uri is not None,
        "storage_uri": storage_uri,
        "trust": trust,
        "opset": opset,
        "quantization": Quantization(int8_samples, int8_method),
    }
    if is_file:
        options["labels"] = None if labels is None else _read_labels(labels)
        version = export_model(source, to, preprocess_input=preprocess_input, **options)
    else:
        version = export_run(source, to, **options)
    typer.echo(summary(version))
    typer.echo(f"published {version}")


def _names(option: str) -> list[str]:
    return [name.strip() for name in option.split(",") if name.strip()]


def _read_labels(path: Path) -> list[str]:
    from keras_cnns.files import read_labels

    try:
        return list(read_labels(path))
    except (OSError, ValueError) as error:
        reason = f"cannot read {path}: {error}" if isinstance(error, OSError) else str(error)
        raise typer.BadParameter(reason, param_hint="--labels") from error


def main(arguments: list[str] | None = None, program: str = "keras-cnns export") -> int:
    """Publish a run as SavedModel and ONNX, proven equal.

    Args:
        arguments: without the program's name; those of the process by default.
        program: what `--help` and errors call the command.

    Returns:
        The exit status: 0, 2 for bad usage, 1 for failed work.
    """
    from keras_cnns.cli import run

    return run(app, sys.argv[1:] if arguments is None else arguments, program)


def summary(version: Path) -> str:
    """Return a published version's formats and their agreement with Keras, a line for each."""
    content = json.loads((version / "model.json").read_text(encoding="utf-8"))
    parity, metrics = content["parity"], content["metrics"]
    rows = []
    for name, figures in parity["formats"].items():
        size = size_of(name, version) / 1e6
        row = (
            f"  {name:<18} {size:8.2f} MB   largest difference {figures['largest_difference']:.1e}"
        )
        row += f"   top-1 agreement {figures['top_1_agreement']:.2%}"
        if figures["accuracy"] is not None:
            row += f"   accuracy {figures['accuracy']:.2%}"
        rows.append(row)
    first = f"compared with Keras on {parity['samples']} images ({parity['split']})"
    lines = [first + ":", *rows]
    own = parity.get("own_precision")
    if own is not None:
        lines.append(
            f"exported in float32; the model's own answers in {own['policy']} differ from it by up "
            f"to {own['largest_difference']:.1e}, top-1 agreement {own['top_1_agreement']:.2%}"
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
    return "\n".join(lines)


@contextlib.contextmanager
def _usage(option: str) -> Iterator[None]:
    """Turn the library's error about an option's value into one of usage."""
    try:
        yield
    except ExportError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _load_tensorflow() -> None:
    """Import TensorFlow and find its devices, without its notes about GPUs that are not there."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # 2: errors only
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    with quiet_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
