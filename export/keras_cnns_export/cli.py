"""`keras-cnns export`: a run directory becomes a published version."""

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
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.publish import check_model_directory

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(
    epilog="Example: keras-cnns train --recipe digits-resnet20 --run runs/first && "
    "keras-cnns export runs/first --to models/digits"
)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="What `keras-cnns train` left.")],
    to: Annotated[Path, typer.Option(metavar="models/NAME", help="The model's directory.")],
    formats: Annotated[
        str, typer.Option(metavar="NAME,NAME", help=f"Some of: {', '.join(FORMATS)}.")
    ] = "saved_model,onnx",
) -> None:
    """Publish a run as the next version of a model, every format proven equal to Keras.

    The version, models/NAME/1, 2 ..., is one that TensorFlow Serving and keras-cnns-serve
    load as it is. If a format disagrees with Keras, nothing is published.
    """
    names = [name.strip() for name in formats.split(",") if name.strip()]
    with _usage("--formats"):
        check_names("format", names, FORMATS)
    with _usage("--to"):
        check_model_directory(to)
    typer.echo(f"exporting {run} as {', '.join(names)}")
    _load_tensorflow()
    from keras_cnns_export.exporter import export_run

    version = export_run(run, to, formats=names)
    typer.echo(summary(version))
    typer.echo(f"published {version}")


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
    """What a published version holds and how well it agrees with Keras, a line for each format."""
    content = json.loads((version / "model.json").read_text(encoding="utf-8"))
    parity, metrics = content["parity"], content["metrics"]
    rows = []
    for name, figures in parity["formats"].items():
        files = {path for pattern in FORMATS[name].files for path in version.glob(pattern)}
        size = sum(path.stat().st_size for path in files) / 1e6
        row = (
            f"  {name:<12} {size:8.2f} MB   largest difference {figures['largest_difference']:.1e}"
        )
        row += f"   top-1 agreement {figures['top_1_agreement']:.2%}"
        if figures["accuracy"] is not None:
            row += f"   accuracy {figures['accuracy']:.2%}"
        rows.append(row)
    first = f"compared with Keras on {parity['samples']} images ({parity['split']})"
    if metrics is not None:
        first += f", where its accuracy is {metrics['accuracy']:.2%}"
    return "\n".join([first + ":", *rows])


@contextlib.contextmanager
def _usage(option: str) -> Iterator[None]:
    """What the library finds wrong with an option's value is bad usage here."""
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
