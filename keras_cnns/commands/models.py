"""`keras-cnns models` and `keras-cnns models show`."""

from typing import TYPE_CHECKING, Annotated

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns.table import print_table

if TYPE_CHECKING:
    from keras_cnns.models.cost import Cost

app = typer.Typer(invoke_without_command=True)


@app.callback()
def models(context: typer.Context) -> None:
    """List the models that a recipe can use, or show the stages of a model."""
    if context.invoked_subcommand:
        return
    with quiet_stderr():
        from keras_cnns.models import MODELS
    rows = [
        (name, *_format_cost(entry.cost, decimals=1), entry.top_1 or "", entry.paper)
        for name, entry in MODELS.items()
    ]
    columns = ("model", "parameters", "multiply-adds", "activations", "top-1 %", "paper")
    print_table(columns, rows, numbers=(1, 2, 3))


@app.command(epilog="Example: keras-cnns models show googlenet --size 32 --channels 1")
def show(
    name: Annotated[str, typer.Argument(help="Name of a model; `keras-cnns models` lists them.")],
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Height and width of the input in pixels; by default those of the paper."
        ),
    ] = None,
    channels: Annotated[int, typer.Option(min=1, help="Number of channels of the input.")] = 3,
    aux_heads: Annotated[
        bool, typer.Option("--aux-heads", help="Include the auxiliary classifiers.")
    ] = False,
) -> None:
    """Print the stages of a model: output shape, parameters, multiply-adds, activation memory."""
    with quiet_stderr():
        from keras_cnns.models import build, stage_costs
    shape = None if size is None else (size, size, channels)
    try:
        model = build(name, shape, aux_heads=aux_heads)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    rows = [
        (stage, "x".join(map(str, output)), *_format_cost(cost, decimals=2))
        for stage, output, cost in stage_costs(model)
    ]
    columns = ("stage", "output", "parameters", "multiply-adds", "activations")
    print_table(columns, rows, numbers=(2, 3, 4))


def _format_cost(cost: "Cost", *, decimals: int) -> tuple[str, str, str]:
    """Return parameters, multiply-adds and activation memory as the cells of a table."""
    return (
        f"{cost.parameters:,}",
        f"{cost.multiply_adds / 1e6:,.1f} M",
        f"{cost.activation_bytes / 2**20:,.{decimals}f} MiB",
    )
