"""The command line `keras-cnns`: its own commands, and those that other distributions bring.

A distribution adds a command by an entry point in the group `keras_cnns.commands`: a function
`main(arguments, program)` that returns the exit status. Nothing heavy is imported before a command
runs, so that `--help` answers at once.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from keras_cnns.commands.data import data_app
from keras_cnns.commands.lab import lab
from keras_cnns.commands.report import report
from keras_cnns.quiet import quiet_stderr
from keras_cnns.table import print_table

if TYPE_CHECKING:
    from keras_cnns.training import Run

COMMANDS = "keras_cnns.commands"
USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
MAX_LINES = 20  # of an error's message
MAX_CHARACTERS = 500  # of each line of it after the first
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

RunPath = Annotated[Path, typer.Argument(help="A run directory that `train` made.")]
TopK = Annotated[int, typer.Option(min=1, help="How many labels to print for an image.")]


def import_training() -> ModuleType:
    """Return `keras_cnns.training`, which brings TensorFlow with it: seconds, and many words."""
    with quiet_stderr():
        from keras_cnns import training
        from keras_cnns.training import train  # noqa: F401  (parts are imported when asked for)
    return training


app = typer.Typer(
    epilog="Example: keras-cnns train --recipe digits-resnet20 --run runs/first",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print the version, and end, if it is wanted."""
    if wanted:
        typer.echo(f"keras-cnns {metadata.version('keras-cnns')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show an error's traceback; may stand anywhere.")
    ] = False,
) -> None:
    """GoogLeNet and ResNet in Keras 3, from the paper to an endpoint that answers."""


@app.command(
    epilog="Example: keras-cnns train --recipe digits-resnet20 --run runs/first "
    "--set optimizer.learning_rate=0.05 --set training.epochs=3. "
    "Killed or stopped, the same command goes on from its latest checkpoint."
)
def train(
    recipe: Annotated[str, typer.Option(help="A built-in recipe's name, or a TOML file's path.")],
    run: Annotated[
        Path | None, typer.Option(help="Directory to make, or to go on with after a kill.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a value of the recipe."),
    ] = None,
    checkpoint_seconds: Annotated[
        float,
        typer.Option(
            min=0, help="Time from one checkpoint to the next; writing takes at most 0.5 %."
        ),
    ] = 60,
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps from one checkpoint to the next, beside that.")
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out the image files that training is refused for."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print recipe, steps, time and memory; train ten steps."),
    ] = False,
    find_lr: Annotated[
        bool,
        typer.Option("--find-lr", help="Find a learning rate, and plot the loss against it."),
    ] = False,
) -> None:
    """Train a net as a recipe says; the best epoch's model goes into the run directory."""
    from keras_cnns.recipes import RecipeError, load_recipe

    try:
        skipping = ["data.skip_bad=true"] if skip_bad else []
        loaded = load_recipe(recipe, [*(overrides or ()), *skipping])
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from error
    if dry_run:
        from keras_cnns.commands.dry_run import print_dry_run

        return print_dry_run(loaded)
    if find_lr:
        from keras_cnns.commands.find_lr import run_lr_finder

        return run_lr_finder(loaded, run)
    if run is None:
        raise typer.BadParameter("Missing option '--run', the directory to make")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    training = import_training()

    try:
        finished = training.train(
            loaded, run, checkpoint_seconds=checkpoint_seconds, checkpoint_steps=checkpoint_steps
        )
    except training.RunError as error:
        raise typer.BadParameter(str(error)) from error
    _write_report(finished)
    results = finished.results()
    test = results["test"]
    print(
        f"{run}: test accuracy {test['accuracy']:.2%} over {test['samples']} images, "
        f"epoch {results['best_epoch']} of {loaded.training.epochs}, "
        f"trained in {results['training_seconds']:.0f} s"
    )


def _write_report(run: "Run") -> None:
    """Write the report of a run that was just trained, or that has none yet."""
    from keras_cnns.messages import print_message
    from keras_cnns.report import write_report
    from keras_cnns.runs.names import REPORT

    if run.predictions is None and (run.path / REPORT).exists():
        return
    try:
        write_report(run.path, run.predictions)
    except OSError as error:
        print_message(
            f"cannot write the report: {error.strerror}; `keras-cnns report {run.path}` tries again"
        )


@app.command(epilog="Example: keras-cnns evaluate runs/first --split validation")
def evaluate(
    run: RunPath,
    split: Annotated[
        str, typer.Option(help="The recipe's train, validation or test split.")
    ] = "test",
) -> None:
    """Print a run's loss and accuracy on one of its recipe's splits."""
    training = import_training()

    finished = training.open_run(run)
    try:
        name = training.find_split(finished.recipe.data, split)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--split") from error
    results = training.evaluate(finished, split)
    print(
        f"{run}: {name}: accuracy {results['accuracy']:.2%}, "
        f"loss {results['loss']:.4f}, {results['samples']} images"
    )


@app.command(epilog="Example: keras-cnns predict runs/first digit.png --top-k 3")
def predict(
    run: RunPath,
    images: Annotated[list[Path], typer.Argument(help="Image files: JPEG, PNG, WebP, BMP or GIF.")],
    top_k: TopK = 5,
) -> None:
    """Print the most probable labels of image files."""
    training = import_training()

    finished = training.open_run(run)
    for path, labels in zip(images, training.predict(finished, images, top_k=top_k), strict=True):
        ranked = ", ".join(f"{label} {probability:.2%}" for label, probability in labels)
        print(f"{path}: {ranked}")


app.command(epilog="Example: keras-cnns report runs/first runs/second --to comparison.html")(report)

app.command(epilog="Example: keras-cnns lab saddle --to lab")(lab)

models_app = typer.Typer(
    help="List the nets, or show one stage by stage.",
    epilog="Example: keras-cnns models show resnet50",
    invoke_without_command=True,
)
app.add_typer(models_app, name="models")


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the nets that recipes can name, or show one stage by stage."""
    if context.invoked_subcommand:
        return
    with quiet_stderr():
        from keras_cnns.models import MODELS
    rows = [
        (
            name,
            f"{entry.cost.parameters:,}",
            f"{entry.cost.multiply_adds / 1e6:,.1f} M",
            f"{entry.cost.activation_bytes / 2**20:,.1f} MiB",
            entry.top_1 or "",
            entry.paper,
        )
        for name, entry in MODELS.items()
    ]
    columns = ("model", "parameters", "multiply-adds", "activations", "top-1 %", "paper")
    print_table(columns, rows, numbers=(1, 2, 3))


@models_app.command(epilog="Example: keras-cnns models show googlenet --size 32 --channels 1")
def show(
    name: Annotated[str, typer.Argument(help="A net that `keras-cnns models` lists.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Height and width of the input; the paper's if absent."),
    ] = None,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the input.")] = 3,
    aux_heads: Annotated[bool, typer.Option(help="With the auxiliary classifiers.")] = False,
) -> None:
    """Print a net's stages: output size, parameters, multiply-adds and activation memory."""
    with quiet_stderr():
        from keras_cnns.models import build, registry, stage_costs
    try:
        registry.find(name)
        shape = {} if size is None else {"input_shape": (size, size, channels)}
        model = build(name, aux_heads=aux_heads, **shape)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    rows = [
        (
            stage,
            "x".join(map(str, output)),
            f"{cost.parameters:,}",
            f"{cost.multiply_adds / 1e6:,.1f} M",
            f"{cost.activation_bytes / 2**20:,.2f} MiB",
        )
        for stage, output, cost in stage_costs(model)
    ]
    columns = ("stage", "output", "parameters", "multiply-adds", "activations")
    print_table(columns, rows, numbers=(2, 3, 4))


app.add_typer(data_app, name="data")

weights_app = typer.Typer(help="Load checkpoints of torchvision, timm and keras.applications.")
app.add_typer(weights_app, name="weights")


@weights_app.command(
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
        str, typer.Option(help="The checkpoint's model, a name that `keras-cnns models` lists.")
    ],
    to: Annotated[Path, typer.Option(help="The .weights.h5 or .keras file to write.")],
    aux_heads: Annotated[
        bool, typer.Option("--aux-heads", help="Convert GoogLeNet's auxiliary classifiers too.")
    ] = False,
) -> None:
    """Convert a checkpoint to a model's own weights, if all of its tensors fit."""
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


@app.command(epilog="Example: keras-cnns demo --runs runs --models models")
def demo(
    runs: Annotated[Path, typer.Option(help="Where the run directories go.")] = Path("runs"),
    models: Annotated[Path, typer.Option(help="Where the models go.")] = Path("models"),
) -> None:
    """Train two nets on the built-in digits, export both, serve them and ask for an answer."""
    from keras_cnns.demo import run_demo

    run_demo(runs, models)


def add_commands(app: typer.Typer) -> None:
    """Add the commands that installed distributions bring; each parses its own arguments."""
    for entry_point in sorted(metadata.entry_points(group=COMMANDS), key=lambda each: each.name):
        main = entry_point.load()
        summary = (main.__doc__ or "").partition("\n")[0]
        app.command(entry_point.name, help=summary, context_settings=PASS_ON)(
            pass_on(main, f"keras-cnns {entry_point.name}")
        )


def pass_on(
    main: Callable[[Sequence[str], str], int], program: str
) -> Callable[[typer.Context], None]:
    """Return a command that hands its arguments to another distribution's `main`."""

    def command(context: typer.Context) -> None:
        debug = ["--debug"] if context.obj else []
        # Not typer.Exit: `main` has said already what there is to say.
        sys.exit(main([*context.args, *debug], program))

    return command


def describe(error: Exception) -> str:
    """Return an error's message, without blank lines and with at most `MAX_LINES` lines.

    Later lines often hold the facts, such as the names of missing weights, or the reason for which
    Keras could not load a file. Those that are longer than `MAX_CHARACTERS`, such as the whole
    configuration of a model, are shortened; our own first lines never are.
    """
    usage = getattr(error, "format_message", None)  # of the command line's own errors
    text = str(usage() if usage else error)
    first, *rest = [line.rstrip() for line in text.splitlines() if line.strip()] or [""]
    shown = [line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]}…" for line in rest]
    lines = [first.lstrip(), *shown[: MAX_LINES - 1]]
    if len(rest) >= MAX_LINES:
        lines.append(f"and {len(rest) - MAX_LINES + 1} more lines")
    message = "\n".join(lines)
    if usage or (isinstance(error, ValueError | OSError | RuntimeError) and message):
        return message
    return f"{type(error).__name__}: {message}\nRun it again with --debug to see where."


def run(app: typer.Typer, arguments: Sequence[str], program: str) -> int:
    """Run a command line and return its exit status; errors become lines for a person.

    Args:
        app: the commands.
        arguments: what stands behind the program's name; `--debug` may stand anywhere.
        program: the name to speak of.

    Returns:
        0; 1 for failed work; 2 for bad usage; 130 when interrupted.
    """
    debug = "--debug" in arguments
    arguments = [each for each in arguments if each != "--debug"]
    try:
        status = app(arguments, prog_name=program, standalone_mode=False, obj=debug)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"{program}: {describe(error)}", file=sys.stderr)
        return int(getattr(error, "exit_code", FAILURE))
    if status == INTERRUPTED:
        print(f"{program}: interrupted", file=sys.stderr)
    return int(status or 0)


def main() -> None:
    """Run `keras-cnns`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    add_commands(app)
    sys.exit(run(app, sys.argv[1:] or ["--help"], "keras-cnns"))


if __name__ == "__main__":
    main()
