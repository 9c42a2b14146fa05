"""`keras-cnns report`: a page about a run, or about several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that `train` made.")],
    to: Annotated[
        Path, typer.Option(help="The page that compares several runs; of one it is in the run.")
    ] = Path("comparison.html"),
) -> None:
    """Write a run's report.html anew, or a page that compares several runs."""
    with quiet_stderr():
        from keras_cnns.report import compare, write_report
    if len(runs) == 1:
        print(f"{runs[0]}: {write_report(runs[0])}")
        return
    from keras_cnns.report.comparison import COLUMNS, NUMBERS
    from keras_cnns.table import print_table

    rows = compare(runs, to)
    print_table(COLUMNS, rows, numbers=range(1, NUMBERS + 1))
    print(f"{to}: the runs side by side")
