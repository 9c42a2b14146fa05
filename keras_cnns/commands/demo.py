"""`keras-cnns demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    runs: Annotated[Path, typer.Option(help="Directory for the run directories.")] = Path("runs"),
    models: Annotated[Path, typer.Option(help="Directory for the exported models.")] = (
        Path("models")
    ),
) -> None:
    """Train two models on the built-in digits, export them, serve them and classify an image."""
    from keras_cnns.demo import run_demo

    run_demo(runs, models)
