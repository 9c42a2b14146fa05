"""`keras-cnns card`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr


def card(
    run: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    models: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="models/NAME",
            help="The run's exported model; the card then also lists its formats and their "
            "comparison with Keras.",
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="File of the card; by default card.md in the run.")
    ] = None,
    license: Annotated[  # noqa: A002 - the option's name
        str, typer.Option(help="License of the model, as the hub names it, such as apache-2.0.")
    ] = "",
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Data set on the hub, such as uoft-cs/cifar10; repeatable."),
    ] = None,
) -> None:
    """Write the model card of a run, with the metadata of Hugging Face's hub.

    It contains what the run and the export recorded: data, recipe, results with
    their intervals, formats, environment. Facts that only you can add, such as
    the intended use, are marked with [More Information Needed].
    """
    with quiet_stderr():
        from keras_cnns.card import Card, write_card

    facts = Card(license=license, datasets=tuple(dataset or ()))
    print(f"{run}: {write_card(run, model=models, to=to, card=facts)}")
