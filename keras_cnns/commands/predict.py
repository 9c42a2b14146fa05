"""`keras-cnns predict`."""

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.commands import ENTRY_POINTS
from keras_cnns.quiet import quiet_stderr


def predict(
    run: Annotated[
        Path,
        typer.Argument(help="Run directory of a finished training, or directory of a model."),
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files: JPEG, PNG, WebP, BMP or GIF. A model also accepts folders and globs."
        ),
    ],
    top_k: Annotated[int, typer.Option(min=1, help="Number of labels to print per image.")] = 5,
) -> None:
    """Print the most probable labels of image files and their probabilities.

    The images of an exported model (models/NAME) are scored by keras-cnns-serve, as by
    `keras-cnns score`, which can also write the result to files.
    """
    if _is_exported(run):
        sys.exit(_score(run, [*map(str, images), "--top-k", str(top_k)]))
    with quiet_stderr():
        from keras_cnns.training import open_run
        from keras_cnns.training import predict as predict_images

    predictions = predict_images(open_run(run), images, top_k=top_k)
    for path, labels in zip(images, predictions, strict=True):
        ranked = ", ".join(f"{label} {probability:.2%}" for label, probability in labels)
        print(f"{path}: {ranked}")


def _is_exported(path: Path) -> bool:
    """Return whether a directory is an exported model, or a version of one."""
    versions = (each.parent for each in path.glob("*/model.json"))
    return (path / "model.json").exists() or any(each.name.isdecimal() for each in versions)


def _score(model: Path, arguments: Sequence[str]) -> int:
    """Run the command `score` of keras-cnns-serve, and return its exit status.

    Raises:
        RuntimeError: keras-cnns-serve is not installed.
    """
    commands = list(metadata.entry_points(group=ENTRY_POINTS, name="score"))
    if not commands:
        raise RuntimeError(
            f"{model} is an exported model, which keras-cnns-serve scores; install it "
            "(pip install keras-cnns-serve), or give a run directory"
        )
    return int(commands[0].load()([str(model), *arguments], "keras-cnns predict"))
