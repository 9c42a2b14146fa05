"""`keras-cnns report`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.messages import print_message
from keras_cnns.quiet import quiet_stderr
from keras_cnns.table import print_table


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    to: Annotated[
        Path,
        typer.Option(
            help="File of the comparison; the report of a single run is written into its directory."
        ),
    ] = Path("comparison.html"),
) -> None:
    """Write the report of a run, or a page that compares several runs."""
    with quiet_stderr():
        from keras_cnns.report import compare, write_report
    if len(runs) == 1:
        print(f"{runs[0]}: {write_report(runs[0])}")
        return
    from keras_cnns.report.comparison import COLUMNS, NUMBERS, SEED_COLUMNS

    comparison = compare(runs, to)
    print_table(COLUMNS, comparison.rows, numbers=range(1, NUMBERS + 1))
    if comparison.seeds:
        print()
        print_table(SEED_COLUMNS, comparison.seeds, numbers=range(1, len(SEED_COLUMNS)))
    if comparison.warning:
        print_message(f"warning: {comparison.warning}")
    print(f"{to}: comparison of {len(runs)} runs")
