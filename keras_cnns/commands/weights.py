"""`keras-cnns weights convert`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr

app = typer.Typer(
    help="Convert checkpoints of torchvision, timm and keras.applications.", no_args_is_help=True
)


@app.command(
    epilog="Example: keras-cnns weights convert resnet50.safetensors --model resnet50 "
    "--to resnet50.weights.h5"
)
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .safetensors, .h5 or .keras file, or, if torch is installed, a .pth, .pt, "
            ".pth.tar, .bin or .ckpt file."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Model of the checkpoint, a name that `keras-cnns models` lists.")
    ],
    to: Annotated[Path, typer.Option(help="File to write, .weights.h5 or .keras.")],
    aux_heads: Annotated[
        bool, typer.Option("--aux-heads", help="Also convert GoogLeNet's auxiliary classifiers.")
    ] = False,
) -> None:
    """Convert a checkpoint to the format of Keras if all of its tensors fit the model."""
    with quiet_stderr():
        from keras_cnns import weights
    try:
        report = weights.convert(file, model, to, aux_heads=aux_heads)
    except weights.WeightsError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    print(
        f"{to}: {report.parameters:,} parameters of {model}, "
        f"from {report.tensors} tensors of {report.origin}"
    )
    if report.ignored_heads:
        heads = sorted({name.partition(".")[0].partition("/")[0] for name in report.ignored_heads})
        hint = " (see --aux-heads)" if any("aux" in head for head in heads) else ""
        print(f"heads of {file} that were ignored: {', '.join(heads)}{hint}")
