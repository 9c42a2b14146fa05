"""`keras-cnns lab list`, `lab run` and `lab report`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_cnns.durations import format_seconds
from keras_cnns.quiet import quiet_stderr
from keras_cnns.table import print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from keras_cnns.lab.running import State

_ALL = "all"
_MAX_PROCESSES = 8
_CORES = 2  # `lab list` states the durations for a machine with this number of cores
_REFRESH = 0.5  # seconds between two drawings of the progress

app = typer.Typer(no_args_is_help=True)
_Folder = Annotated[Path, typer.Option(help="Directory of the measurements and the page.")]


class Images(StrEnum):
    """The images of the experiments; the keys of `keras_cnns.lab.networks.DATA`."""

    digits = "digits"
    fashion_mnist = "fashion-mnist"


@app.callback()
def lab() -> None:
    """Test claims of papers by measurements; the page has figures and a verdict for each claim."""


@app.command("list", epilog="Example: keras-cnns lab list")
def list_experiments() -> None:
    """List the experiments with their claims and durations."""
    with quiet_stderr():
        from keras_cnns.lab.experiment import Settings
        from keras_cnns.lab.experiments import EXPERIMENTS
        from keras_cnns.lab.running import Size, duration
    size = Size(5, Settings())
    print_table(
        ("experiment", f"five seeds on {_CORES} cores", "claim"),
        [
            (name, format_seconds(duration([each], size, _CORES)), each.claim)
            for name, each in EXPERIMENTS.items()
        ],
        numbers=(1,),
    )


@app.command(epilog="Example: keras-cnns lab run degradation --minutes 5 --to lab")
def run(
    name: Annotated[str, typer.Argument(help="Name of an experiment, or `all`.")],
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds; an interval needs at least 2.")
    ] = 5,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Time for the run. A short time gives fewer seeds and shorter trainings. A "
            "measurement starts only if it is expected to end in time.",
        ),
    ] = None,
    data: Annotated[Images, typer.Option(help="Images of the trainings.")] = Images.digits,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of seeds that are measured at the same time, each with one thread; a "
            "process needs about 2 GB of memory. By default one for each core, as far as the "
            f"memory suffices, and at most {_MAX_PROCESSES}; with a GPU or without TensorFlow, 1.",
            show_default=False,
        ),
    ] = None,
    to: _Folder = Path("lab"),
) -> None:
    """Measure one experiment or all of them, and write the page.

    Measurements are kept. The same command continues a run that was stopped,
    and does not repeat what it has measured already.
    """
    with quiet_stderr():
        from keras_cnns.lab.experiments import EXPERIMENTS, find_experiment
        from keras_cnns.lab.report import write_report
        from keras_cnns.lab.running import choose_size, duration, run_experiments
        from keras_cnns.lab.workers import default_processes
    try:
        experiments = list(EXPERIMENTS.values()) if name == _ALL else [find_experiment(name)]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    processes = processes or default_processes(_MAX_PROCESSES)
    size = choose_size(experiments, data.value, seeds, minutes, processes)
    expected = format_seconds(duration(experiments, size, processes))
    print(
        f"{size.seeds} seeds, {size.settings.effort:.0%} of the full training length: about "
        f"{expected} with {processes} processes"
    )
    with _progress() as (show, log):
        run_experiments(
            experiments, size, to, minutes=minutes, processes=processes, show=show, log=log
        )
    print(write_report(to))


@app.command(epilog="Example: keras-cnns lab report --to lab")
def report(
    to: _Folder = Path("lab"),
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write a Markdown page for each experiment into this directory, with its "
            "figures as files.",
        ),
    ] = None,
) -> None:
    """Write the page again, from the measurements in the directory."""
    with quiet_stderr():
        from keras_cnns.lab.markdown import write_markdown
        from keras_cnns.lab.report import write_report
    print(write_report(to))
    for path in write_markdown(to, markdown) if markdown else ():
        print(path)


@contextmanager
def _progress() -> Iterator[tuple["Callable[[State], None]", "Callable[[str], None]"]]:
    """Yield two functions: one shows the progress on a terminal, one prints a line."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[left]}"),
        console=console,
        auto_refresh=False,
        disable=not console.is_terminal,
    )
    bars = [progress.add_task(each, total=1.0, left="") for each in ("experiments", "seeds", "")]
    start = shown_at = time.monotonic()
    first: float | None = None  # the fraction that earlier runs had measured

    def show(state: "State") -> None:
        nonlocal shown_at, first
        now = time.monotonic()
        first = state.total if first is None else first
        if now - shown_at < _REFRESH:
            return
        shown_at = now
        measured = state.total - first
        left = (1 - state.total) * (now - start) / measured if measured > 0 else None
        in_experiment = (state.seed + state.fraction) / state.seeds
        progress.update(
            bars[0],
            completed=state.total,
            description=f"experiment {state.index + 1} of {state.experiments}: {state.experiment}",
            left="" if left is None else f"{format_seconds(left)} left",
        )
        progress.update(
            bars[1], completed=in_experiment, description=f"seed {state.seed + 1} of {state.seeds}"
        )
        progress.update(bars[2], completed=state.fraction, description=state.what)
        progress.refresh()

    with progress:
        yield show, lambda line: console.print(line, highlight=False, markup=False)
