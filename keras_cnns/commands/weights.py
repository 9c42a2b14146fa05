"""`keras-cnns weights list`, `get` and `convert`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.commands.offline import Offline
from keras_cnns.quiet import quiet_stderr
from keras_cnns.suggestions import find
from keras_cnns.table import print_table

app = typer.Typer(
    help="List, download and convert weights of torchvision, timm and keras.applications.",
    no_args_is_help=True,
)


@app.command(name="list", epilog="Example: keras-cnns weights list resnet50")
def list_weights(
    model: Annotated[
        str | None,
        typer.Argument(help="Only weights of this model, a name that `keras-cnns models` lists."),
    ] = None,
) -> None:
    """List the published weights that `build`, recipes and `weights get` know by name.

    The name "imagenet" refers to the weights that the first column marks.
    Sizes are in MiB, accuracies in per cent of ImageNet's validation images.
    """
    with quiet_stderr():
        from keras_cnns.models import MODELS
        from keras_cnns.weights.download import is_cached
        from keras_cnns.weights.pretrained import DEFAULT, PRETRAINED, rows_for
    if model is not None:
        try:
            find(model, MODELS, "model")
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        if not rows_for(model):
            raise typer.BadParameter(f"there are no published weights of {model}")
    rows = [
        (
            DEFAULT if row.default else "",
            row.name,
            row.model,
            "" if row.mebibytes is None else f"{row.mebibytes:.0f}",
            "" if row.top_1 is None else f"{row.top_1:.1f}",
            f"{row.resize or '?'} -> {row.crop}",
            row.licence,
            "yes" if is_cached(row) else "",
        )
        for row in (PRETRAINED.values() if model is None else rows_for(model))
    ]
    columns = ("", "weights", "model", "MiB", "top-1", "resize, crop", "licence", "cached")
    print_table(columns, rows, numbers=(3, 4))


@app.command(epilog="Example: keras-cnns weights get torchvision/resnet50.IMAGENET1K_V2")
def get(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of published weights, as `keras-cnns weights list` prints it; the name of "
            "a model means its default weights."
        ),
    ],
    offline: Offline = False,
) -> None:
    """Download published weights to the cache, verify their checksum, and print their path."""
    with quiet_stderr():
        from keras_cnns.models import MODELS
        from keras_cnns.weights import pretrained
        from keras_cnns.weights.download import fetch
    try:
        of_model = (pretrained.DEFAULT, name)
        row = pretrained.find(*(of_model if name in MODELS else (name,)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    print(fetch(row))


@app.command(
    epilog="Example: keras-cnns weights convert resnet50.safetensors --model resnet50 "
    "--to resnet50.weights.h5"
)
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .safetensors, .h5, .keras, .pth, .pt, .pth.tar, .bin or .ckpt file; a training "
            "checkpoint of torch may need torch."
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
