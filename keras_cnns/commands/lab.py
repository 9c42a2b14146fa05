"""`keras-cnns lab`: a claim of the lecture, tried out."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr


class Claim(StrEnum):
    """What can be tried."""

    depth = "depth"
    auxiliary = "auxiliary"
    batch_norm = "batch-norm"
    saddle = "saddle"


def lab(
    name: Annotated[Claim, typer.Argument(help="Which claim to try.")],
    to: Annotated[Path, typer.Option(help="Folder for the page and the trainings.")] = Path("lab"),
) -> None:
    """Try a claim of the lecture by tiny trainings on the digits; about a minute or two.

    depth: plain against residual nets. auxiliary: GoogLeNet with and without its auxiliary
    classifiers. batch-norm: how activations shift with and without it. saddle: momentum against
    plain gradient descent.
    """
    with quiet_stderr():
        from keras_cnns.lab import run_experiment
    print(f"{name.value}: {run_experiment(name.value, to)}")
