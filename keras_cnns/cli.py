"""The command line `keras-cnns`, with its own commands and the commands of other distributions.

A distribution adds a command with an entry point in the group `keras_cnns.commands`: a function
`main(arguments, program)` that returns the exit status. A command imports TensorFlow only when it
runs, so that `--help` is fast.
"""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from keras_cnns.commands import ENTRY_POINTS, Main, data, lab, models, weights
from keras_cnns.commands.card import card
from keras_cnns.commands.demo import demo
from keras_cnns.commands.evaluate import evaluate
from keras_cnns.commands.fit import fit
from keras_cnns.commands.predict import predict
from keras_cnns.commands.recipes import recipes
from keras_cnns.commands.report import report
from keras_cnns.commands.train import train
from keras_cnns.commands.tune import tune
from keras_cnns.files import describe_os_error
from keras_cnns.recipes.unsupported import explain_unsupported_option

_FAILURE, INTERRUPTED = 1, 130
MAX_LINES = 20  # maximum number of lines of an error message
_MAX_CHARACTERS = 500  # maximum length of each line after the first
PASS_ALL = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

# name -> the command or the app of its subcommands, and an example of its arguments
_COMMANDS: dict[str, tuple[Callable[..., Any] | typer.Typer, str]] = {
    "fit": (fit, "photos --run runs/photos --minutes 15"),
    "train": (
        train,
        "--recipe digits-resnet20 --run runs/first --set optimizer.learning_rate=0.05 "
        "--set training.epochs=3",
    ),
    "tune": (tune, "digits-resnet20 --minutes 15 --run runs/tuned"),
    "evaluate": (evaluate, "runs/photos other-photos"),
    "predict": (predict, "runs/photos new-photos --to answers.csv --top-k 3"),
    "report": (report, "runs/first runs/second --to comparison.html"),
    "card": (card, "runs/first --model models/first --license apache-2.0"),
    "recipes": (recipes, "digits-resnet20"),
    "models": (models.app, "show resnet50"),
    "data": (data.app, "check photos"),
    "weights": (
        weights.app,
        "convert resnet50.safetensors --model resnet50 --to resnet50.weights.h5",
    ),
    "lab": (lab.app, "run saddle --to lab"),
    "demo": (demo, "--runs runs --models models"),
}

app = typer.Typer(
    epilog="Example: keras-cnns train --recipe digits-resnet20 --run runs/first",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, (_command, _arguments) in _COMMANDS.items():
    _epilog = f"Example: keras-cnns {_name} {_arguments}"
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name, epilog=_epilog)
    else:
        app.command(_name, epilog=_epilog)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keras-cnns {metadata.version('keras-cnns')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Print the traceback of an error; also accepted after the command."
        ),
    ] = False,
) -> None:
    """Train, export and serve GoogLeNet and ResNet in Keras 3."""


def add_commands(app: typer.Typer) -> None:
    """Add the commands of installed distributions; each parses its own arguments."""
    for entry_point in sorted(
        metadata.entry_points(group=ENTRY_POINTS), key=lambda each: each.name
    ):
        main = entry_point.load()
        summary = (main.__doc__ or "").partition("\n")[0]
        app.command(entry_point.name, help=summary, context_settings=PASS_ALL)(
            pass_on(main, f"keras-cnns {entry_point.name}")
        )


def pass_on(main: Main, program: str) -> Callable[[typer.Context], None]:
    """Return a command that passes its arguments to another distribution's `main`."""

    def command(context: typer.Context) -> None:
        debug = ["--debug"] if context.obj else []
        # Do not raise typer.Exit: `run` would then report an interruption that `main` has already
        # reported.
        sys.exit(main([*context.args, *debug], program))

    return command


def describe_error(error: Exception) -> str:
    """Return an error's message, without blank lines and with at most `MAX_LINES` lines.

    The first line, which this project writes, is always complete. The lines after it are kept too,
    because they often contain important facts, such as the names of missing weights or the reason
    why Keras could not load a file. Lines that are longer than `_MAX_CHARACTERS`, such as the
    configuration of a whole model, are shortened.
    """
    # Only errors of Typer and Click have this method.
    usage = getattr(error, "format_message", None)
    if isinstance(error, OSError) and str(error).startswith("[Errno "):
        text = describe_os_error(error)
    else:
        text = str(usage() if usage else error)
    first, *rest = [line.rstrip() for line in text.splitlines() if line.strip()] or [""]
    shown = [
        line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}…" for line in rest
    ]
    lines = [first.lstrip(), *shown[: MAX_LINES - 1]]
    if len(rest) >= MAX_LINES:
        lines.append(f"and {len(rest) - MAX_LINES + 1} more lines")
    message = "\n".join(lines)
    if usage or (isinstance(error, ValueError | OSError | RuntimeError) and message):
        return message
    return f"{type(error).__name__}: {message}\nAdd --debug to print the traceback."


def _explain_option(error: Exception) -> str | None:
    """Return why an unknown option does not exist, if its feature is known but not supported."""
    option = getattr(error, "option_name", None)  # only Click's NoSuchOption has this attribute
    return explain_unsupported_option(option) if isinstance(option, str) else None


def _flush_output() -> None:
    """Flush standard output; if Python flushed it at exit, an error would have no message.

    Raises:
        OSError: the output cannot be written, for example because the disk is full.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
        if error.errno == errno.EPIPE:  # its reader, such as `head`, has read enough
            sys.exit(_FAILURE)
        raise


def run(app: typer.Typer, arguments: Sequence[str], program: str) -> int:
    """Run a command line, print an error without its traceback, and return the exit status.

    Args:
        app: the commands.
        arguments: the arguments after the program's name; `--debug` may have any position.
        program: the program's name in messages.

    Returns:
        0 for success, 1 for a failure, 2 for wrong usage, 130 for an interruption.
    """
    debug = "--debug" in arguments
    arguments = [each for each in arguments if each != "--debug"]
    try:
        status = app(arguments, prog_name=program, standalone_mode=False, obj=debug)
        _flush_output()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        with contextlib.suppress(OSError):
            _flush_output()
        # The message is "" if the help was printed.
        if message := _explain_option(error) or describe_error(error):
            print(f"{program}: {message}", file=sys.stderr)
        return int(getattr(error, "exit_code", _FAILURE))
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
