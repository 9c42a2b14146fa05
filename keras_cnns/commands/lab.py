"""`keras-cnns lab`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr


class Claim(StrEnum):
    """The claims of the lecture; the names of `keras_cnns.lab.EXPERIMENTS`."""

    depth = "depth"
    auxiliary = "auxiliary"
    batch_norm = "batch-norm"
    saddle = "saddle"


def lab(
    name: Annotated[Claim, typer.Argument(help="Claim to test.")],
    to: Annotated[Path, typer.Option(help="Directory for the page and the run directories.")] = (
        Path("lab")
    ),
) -> None:
    """Test a claim of the lecture by short trainings on the digits, in a minute or two.

    depth compares plain and residual networks. auxiliary compares GoogLeNet
    with and without its auxiliary classifiers. batch-norm compares activations
    with and without batch normalisation. saddle compares momentum and plain
    gradient descent.
    """
    with quiet_stderr():
        from keras_cnns.lab import run_experiment
    print(f"{name.value}: {run_experiment(name.value, to)}")
