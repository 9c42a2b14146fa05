"""`keras-cnns fit`."""

import csv
import json
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from keras_cnns.commands import is_installed, load_command
from keras_cnns.commands.offline import Offline
from keras_cnns.commands.train import train as train_command
from keras_cnns.durations import format_seconds
from keras_cnns.quiet import quiet_stderr
from keras_cnns.runs.exported import MANIFEST, find_versions
from keras_cnns.runs.names import CONFIG, REPORT, RESULTS, named

if TYPE_CHECKING:
    from keras_cnns.fit.plan import Request

_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# A file in the run directory that lists the versions of the model before the export of the run.
_EXPORT = "export.json"


def fit(
    folder: Annotated[Path, typer.Argument(help="Folder with one subfolder of photos per class.")],
    run: Annotated[
        Path,
        typer.Option(help="Run directory; the recipe is written beside it, as DIRECTORY.toml."),
    ],
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Total time in minutes, including the export.")
    ] = 15,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="models/NAME",
            help="The directory of the published model; by default models/ followed by the run's "
            "name.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Pretrained weights to start from: a name that `keras-cnns weights list` shows, "
            "a file of torchvision or timm, or `none` to train from scratch. By default, published "
            "weights are used if they suit the photos and the time, and are in a cache or can be "
            "downloaded."
        ),
    ] = None,
    offline: Offline = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the published model until Ctrl-C.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Measure, print the recipe with its reasons, and write nothing."
        ),
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SECTION.KEY=VALUE", help="Set a value of the recipe; repeatable."
        ),
    ] = None,
) -> None:
    """Train and publish a classifier for a folder of photos.

    Check the folder, choose a recipe, train, write the report, export the model
    and compare it with Keras, and print the command that serves it. The same
    command resumes an interrupted run.
    """
    start = time.perf_counter()
    if serve and not all(map(is_installed, ("export", "serve"))):
        raise typer.BadParameter(
            "--serve needs two more packages: pip install keras-cnns-export keras-cnns-serve"
        )
    run = named(run)
    to = to or Path("models") / run.name
    if to.resolve().parent == to.resolve() or to.is_file():
        raise typer.BadParameter(f"{to} cannot be the directory of a model", param_hint="--to")
    with quiet_stderr():
        from keras_cnns.fit import plan
    request = plan.Request(folder, minutes, weights or "", tuple(overrides or ()))
    path = plan.recipe_path(run)
    try:
        if dry_run:
            print(plan.make_plan(request, download=False).recipe, end="")
            return
        if (run / CONFIG).exists() and not path.exists():
            raise ValueError(f"{run} is a run of another recipe; choose another directory")
        if not path.exists() and _write_plan(request, run):
            print(f"{path}: the recipe, and why each value was chosen")
        else:
            plan.check_plan(run, request)
            print(f"{path}: continuing with this recipe")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    train_command(recipe=str(path), run=run)
    left_out = run / plan.LEFT_OUT
    if plan.left_out_path(run).exists():
        plan.left_out_path(run).replace(left_out)
    version = _publish(run, to)
    _print_summary(folder, run, to, version, time.perf_counter() - start)
    if serve and version is not None:
        _call("serve", str(to.parent))


def _write_plan(request: "Request", run: Path) -> bool:
    """Make and write a plan; return False if another command has written one in the meantime."""
    from keras_cnns.fit.plan import make_plan, write_plan

    made = make_plan(request)
    try:
        write_plan(made, run)
    except FileExistsError:
        return False
    return True


def _publish(run: Path, to: Path) -> Path | None:
    """Export a run once; return the published version, or None without keras-cnns-export.

    Before the export, a list of the existing versions is written to the run directory. If the
    command is killed after publication, the repeated command recognizes the published version by
    two facts: the list does not contain it, and its metrics are those of the run.
    """
    if not is_installed("export"):
        return None
    record = run / _EXPORT
    target = os.path.abspath(to)  # noqa: PTH100 - keeps symbolic links
    known = json.loads(record.read_text("utf-8")) if record.exists() else {}
    if known.get("to") != target:
        from keras_cnns.files import write_json

        known = {"to": target, "versions_before": list(find_versions(to))}
        write_json(record, known)
    versions = find_versions(to)
    new = versions.keys() - set(known["versions_before"])
    published = {version for version in new if _is_of_run(versions[version], run)}
    if not published:
        _call("export", str(run), "--to", str(to))
        published = find_versions(to).keys() - versions.keys()
    return to / str(min(published))


def _is_of_run(version: Path, run: Path) -> bool:
    """Return whether a version has the test metrics of a run."""
    try:
        metrics = json.loads((version / MANIFEST).read_text("utf-8"))["metrics"]
        test = json.loads((run / RESULTS).read_text("utf-8"))["test"]
        return all(metrics[key] == test[key] for key in ("samples", "accuracy"))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _print_summary(folder: Path, run: Path, to: Path, version: Path | None, seconds: float) -> None:
    """Print the accuracy, the time, the location of the results, and how to serve them."""
    from keras_cnns.intervals import wilson_interval

    results = json.loads((run / RESULTS).read_text("utf-8"))
    test = results["test"]
    count = int(test["samples"])
    low, high = wilson_interval(test["accuracy"] * count, count)
    print()
    print(
        f"test accuracy  {test['accuracy']:.1%} on {count} images "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    print(
        f"time           {format_seconds(seconds)} for this command; the training took "
        f"{format_seconds(results['training_seconds'])}"
    )
    print(f"report         {run / REPORT}")
    if version is None:
        missing = " ".join(
            f"keras-cnns-{name}" for name in ("export", "serve") if not is_installed(name)
        )
        print(
            f"To publish the model, install the missing packages (pip install {missing}), and "
            "give the same command again."
        )
        return
    print(f"published      {version}")
    port = 8501
    photo = _find_photo(folder, run)
    url = f"http://127.0.0.1:{port}/v1/models/{quote(to.name)}:classify-image"
    print(f"serve          keras-cnns serve {shlex.quote(str(to.parent))} --port {port}")
    print(f"ask            curl --data-binary @{shlex.quote(str(photo))} {url}")
    if not is_installed("serve"):
        print("The server is another package: pip install keras-cnns-serve")


def _find_photo(folder: Path, run: Path) -> Path:
    """Return a usable photo of the folder for the printed example of a request."""
    from keras_cnns.files import read_text
    from keras_cnns.fit.plan import LEFT_OUT

    listed = read_text(run / LEFT_OUT) if (run / LEFT_OUT).exists() else ""
    rows = csv.DictReader(listed.splitlines())
    left_out = {folder / row["file"] for row in rows}
    photos = (
        each
        for each in sorted(folder.rglob("*"))
        if each.suffix.lower() in _PHOTO_SUFFIXES and not each.name.startswith(".")
    )
    return next((each for each in photos if each not in left_out), Path("photo.jpg"))


def _call(name: str, *arguments: str) -> None:
    """Run a command of another distribution; exit if it fails."""
    print(f"\n$ keras-cnns {shlex.join((name, *arguments))}", flush=True)
    if status := load_command(name)(arguments, f"keras-cnns {name}"):
        raise typer.Exit(status)
