"""`keras-cnns data`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.commands.review import review
from keras_cnns.quiet import quiet_stderr
from keras_cnns.table import print_table

_MAX_LISTED = 20  # number of files that are listed for each kind of problem

app = typer.Typer(help="Check images and their labels.", no_args_is_help=True)
app.command(epilog="Example: keras-cnns data review runs/photos --folds 5")(review)


@app.command(epilog="Example: keras-cnns data check photos")
def check(
    path: Annotated[
        Path,
        typer.Argument(
            help="Directory with one subdirectory per class, or with such a directory per split."
        ),
    ],
    list_all: Annotated[
        bool,
        typer.Option(
            "--all", help=f"List all files with a problem, not only {_MAX_LISTED} per kind."
        ),
    ] = False,
) -> None:
    """Report unreadable files, wrong extensions, duplicates, poor images and class balance.

    Near-duplicates and blurry, dark and tiny images are listed too.
    Near-duplicates always stay in the same split. The results are cached, so
    that the next command reads only changed files. The environment variable
    KERAS_CNNS_CACHE names the cache directory; with the value off, nothing is
    cached.

    The exit status is 1 if training would be refused, for example because a
    file cannot be read, or because two splits or two classes have the same image.
    """
    with quiet_stderr():
        from keras_cnns.data.check import check_folder
        from keras_cnns.data.sources.folder.findings import printable
    try:
        report = check_folder(path)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    print(f"{printable(str(path))}: {report.files} files, {len(report.counts)} classes")
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
            shown = finding.lines if list_all else finding.lines[:_MAX_LISTED]
            for line in shown:
                print(f"  {line}")
            if len(shown) < len(finding.lines):
                print(f"  and {len(finding.lines) - len(shown)} more; --all lists them")
    run = Path("runs", path.resolve().name)
    command = printable(shlex.join(("keras-cnns", "fit", str(path), "--run", str(run))))
    if not report.has_errors:
        print("\nno errors: training on this folder is possible")
        print(f"train: {command}")
        return
    if report.errors_can_be_skipped:
        print(f"\ntrain without the files that have errors: {command}")
    raise typer.Exit(1)
