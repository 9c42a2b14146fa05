"""`keras-cnns data`: check images before a training relies on them."""

from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr

_MAX_LINES = 20  # per finding

data_app = typer.Typer(
    help="Check images before training on them.",
    epilog="Example: keras-cnns data check photos",
    no_args_is_help=True,
)


@data_app.callback()
def data() -> None:
    """Check images before training on them."""


@data_app.command(epilog="Example: keras-cnns data check photos")
def check(
    path: Annotated[
        Path,
        typer.Argument(help="A folder with one folder for each class, or with split folders."),
    ],
    every: Annotated[
        bool,
        typer.Option(
            "--all", help=f"List all files of each finding instead of the first {_MAX_LINES}."
        ),
    ] = False,
) -> None:
    """Report unreadable files, wrong extensions, duplicates, class balance and sizes.

    The status is 1 if training would be refused, for example because of files that cannot be read,
    or because the same image is in two splits or two classes.
    """
    with quiet_stderr():
        from keras_cnns.data.check import check_folder
    try:
        report = check_folder(path)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    from keras_cnns.table import print_table

    print(f"{path}: {report.files} files, {len(report.counts)} classes")
    splits = sorted({split for counts in report.counts.values() for split in counts})
    rows = [
        (label, *(str(counts.get(split, 0)) for split in splits), str(sum(counts.values())))
        for label, counts in report.counts.items()
    ]
    print_table(("class", *splits, "all"), rows, numbers=range(1, len(splits) + 2))
    for line in report.summary:
        print(line)
    for finding in report.findings:
        if finding.lines:
            print(f"\n{finding.title}: {len(finding.lines)}")
            shown = finding.lines if every else finding.lines[:_MAX_LINES]
            for line in shown:
                print(f"  {line}")
            if len(shown) < len(finding.lines):
                print(f"  and {len(finding.lines) - len(shown)} more; --all lists them")
    if report.has_errors:
        raise typer.Exit(1)
    print("\nno errors: the folder can be trained on")
