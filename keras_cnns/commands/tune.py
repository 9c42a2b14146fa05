"""`keras-cnns tune`."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_cnns.commands.offline import Offline
from keras_cnns.durations import format_seconds
from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import RecipeError, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from keras_cnns.tune.search import Progress


class Pruner(StrEnum):
    """The pruners; the keys of the table in `keras_cnns.tune.study`."""

    median = "median"
    asha = "asha"
    hyperband = "hyperband"
    none = "none"


def tune(
    recipe: Annotated[
        str, typer.Argument(help="Name of a built-in recipe or path of a TOML file.")
    ],
    run: Annotated[
        Path,
        typer.Option(help="Directory of the search, which is new or contains an interrupted one."),
    ],
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Total time in minutes, including the comparison.")
    ] = 30,
    searches: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="KEY=LOW:HIGH[:log] or KEY=A,B,C",
            help="Search a key of the recipe over a range or a list, which replaces the key's "
            "default range; repeatable. Example: --search optimizer.learning_rate=0.01:0.5:log "
            "--search training.batch_size=32,64.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Change a value of the recipe, in all trials; repeatable.",
        ),
    ] = None,
    pruner: Annotated[
        Pruner, typer.Option(help="The rule that ends bad trials early.")
    ] = Pruner.median,
    seeds: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="At the end, the recipe and the best settings are trained with this number of "
            "seeds (at least 2), and compared. With 0, they are not compared, and best.toml has "
            "the settings of the best trial.",
        ),
    ] = 3,
    trials: Annotated[
        int | None, typer.Option(min=1, help="End the search after this number of trials.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Search for better settings of a recipe in a given time.

    The first trial is the recipe itself. At the end, the best settings are
    compared with the recipe over several seeds, and best.toml and tune.html are
    written. The same command continues an interrupted search.
    """
    try:
        loaded = load_recipe(recipe, overrides or ())
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from error
    with quiet_stderr():
        from keras_cnns.tune.report import write_report
        from keras_cnns.tune.search import BEST, Request, search
        from keras_cnns.tune.space import make_space
    try:
        space = make_space(loaded, searches or ())
        request = Request(recipe, loaded, space, run, minutes, pruner.value, seeds, trials)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # Every trial traces new functions, and TensorFlow would warn about that.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with _progress() as (show, log):
        outcome = search(request, log=log, show=show)
    path = write_report(request, outcome)
    print()
    print(outcome.describe())
    print(f"recipe  {run / BEST}")
    print(f"page    {path}")


@contextmanager
def _progress() -> Iterator[tuple["Callable[[Progress], None]", "Callable[[str], None]"]]:
    """Yield two functions: one shows the progress on a terminal, one prints a line."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console()
    bar = Bar(
        TextColumn("{task.fields[left]}"),
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=1.0, left="")

    def show(progress: "Progress") -> None:
        left = format_seconds(max(0.0, progress.total - progress.spent))
        fraction = min(1.0, progress.spent / progress.total)
        bar.update(task, completed=fraction, description=progress.text, left=f"{left} left")
        bar.refresh()

    def log(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with bar:
        yield show, log
