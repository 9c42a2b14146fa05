"""Plan a training for a folder of photos: a recipe with its reasons, written beside the run."""

import csv
import io
import os
import shlex
import textwrap
import time
from contextlib import redirect_stderr
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from keras_cnns.cores import available_cores
from keras_cnns.data import Splits
from keras_cnns.files import read_text, write_text
from keras_cnns.fit import choices as choosing
from keras_cnns.fit.choices import Budget, Choices
from keras_cnns.fit.initial_weights import InitialWeights, find_initial_weights
from keras_cnns.fit.measurement import measure
from keras_cnns.fit.photos import SIZES, Photos, examine, measure_levels
from keras_cnns.messages import print_message
from keras_cnns.recipes import parse_overrides
from keras_cnns.registry import find
from keras_cnns.weights.download import fetch

LEFT_OUT = "left_out.csv"
_COMMAND = "#     keras-cnns fit "  # how the line of the recipe with the command begins
_FINISHING_SECONDS = 45.0  # time for the imports, and for test, report and export at the end
_SECTIONS = ("model", "data", "augmentation", "class_balance", "optimizer", "training")


@dataclass(frozen=True)
class Request:
    """The arguments of `keras-cnns fit` on which the recipe depends."""

    folder: Path
    minutes: float
    weights: str = ""  # the path of a file, or a published name; "" to train from scratch
    overrides: tuple[str, ...] = ()

    def arguments(self) -> str:
        """Return the arguments as the text that the recipe records, with absolute paths."""
        parts = [os.path.abspath(self.folder), "--minutes", f"{self.minutes:g}"]  # noqa: PTH100
        if self.weights:
            is_file = Path(self.weights).is_file()
            path = os.path.abspath(self.weights) if is_file else self.weights  # noqa: PTH100
            parts += ["--weights", path]
        for override in self.overrides:
            parts += ["--set", override]
        return _in_comment(shlex.join(parts))


@dataclass(frozen=True)
class Plan:
    """A recipe with its reasons, and the list of the files that are left out."""

    recipe: str  # TOML
    left_out: str  # CSV


def recipe_path(run: Path) -> Path:
    """Return the path of the recipe of a run, beside its directory."""
    return run.with_name(f"{run.name}.toml")


def left_out_path(run: Path) -> Path:
    """Return the path where the list of left-out files lies until the run is finished."""
    return run.with_name(f"{run.name}-{LEFT_OUT}")


def write_plan(plan: Plan, run: Path) -> None:
    """Write a plan beside its run. The recipe is written last, so it completes the plan."""
    run.parent.mkdir(parents=True, exist_ok=True)
    write_text(left_out_path(run), plan.left_out)
    write_text(recipe_path(run), plan.recipe)


def check_plan(run: Path, request: Request) -> None:
    """Raise ValueError if the recipe beside a run was made for another request."""
    path = recipe_path(run)
    lines = read_text(path).splitlines()
    made_by = next((line for line in lines if line.startswith(_COMMAND)), None)
    wanted = request.arguments()
    if made_by is None:
        raise ValueError(f"{path} exists already, and `keras-cnns fit` did not write it")
    if made_by.removeprefix(_COMMAND) != wanted:
        raise ValueError(
            f"{path} was made by `keras-cnns fit {made_by.removeprefix(_COMMAND)}`, but the "
            f"command is now `keras-cnns fit {wanted}`. Give the same arguments to go on, choose "
            f"another --run, or remove {path} and {run} to begin anew"
        )


def make_plan(request: Request) -> Plan:
    """Examine a folder, choose a recipe, and measure it.

    Nothing is written.

    Raises:
        ValueError: the folder cannot be trained on, the weights cannot be read, or an override is
            wrong.
    """
    start = time.perf_counter()
    given = parse_overrides(request.overrides)
    _check_given(given)
    weights = find_initial_weights(request.weights, str(given.get("model.name", "")))
    pretrained = weights is not None
    if weights is not None and weights.published is not None:
        # Download now, so that the progress of the download is shown before the photos are read.
        fetch(weights.published)
    start = time.perf_counter()  # the time of the download does not count
    photos = examine(request.folder)
    _report(photos)

    def budget() -> Budget:
        used = time.perf_counter() - start
        return Budget(
            seconds=request.minutes * 60 - used - _FINISHING_SECONDS,
            cores=available_cores(),
            memory=int(psutil.virtual_memory().available),
        )

    largest, deeper = SIZES[-1], True
    while True:
        choices = _choose(request, given, photos, budget(), weights, largest, deeper)
        recipe = choices.recipe()
        # Hide warnings about the left-out files, which were printed already.
        with redirect_stderr(io.StringIO()):
            measured = measure(recipe, Splits(recipe.data), budget().seconds)
        epochs, size = choosing.epochs_in(budget(), measured), recipe.data.image_size
        print_message(
            f"measured {recipe.model.name} with {size} x {size} pixels: "
            f"{measured.step_seconds * 1e3:.0f} ms per step, so that there is time for {epochs} "
            "epochs"
        )
        # Network and size were chosen for a typical speed. If the measured speed leaves time for at
        # most half of the required epochs, try the fastest network, and then the next smaller size.
        if deeper and choosing.is_too_deep(recipe.model.name, epochs) and "model.name" not in given:
            deeper = False
            continue
        smaller = choosing.smaller_sizes(size, pretrained=pretrained)
        enough = epochs * 2 > choosing.min_epochs(pretrained=pretrained)
        if enough or not smaller or "data.image_size" in given:
            break
        largest = smaller[-1]
    choosing.choose_rate(choices, measured)
    choosing.choose_epochs(choices, budget(), measured, pretrained=pretrained)
    choices.recipe()  # raises an exception for a wrong given value before anything is written
    return Plan(_format(choices, photos, request), _format_left_out(photos))


def _check_given(given: dict[str, Any]) -> None:
    """Raise ValueError if one of the user's values is wrong.

    This is checked before the folder is read, with arbitrary values for the other keys.
    """
    others = Choices(given)
    channels = given.get("data.channels", 1)
    size = others.choose("data.image_size", 32)
    others.choose("data.channels", channels)
    for key in ("mean", "std"):
        others.choose(f"data.{key}", [1.0] * (channels if channels in (1, 3) else 1))
    others.choose("data.resize_shorter", size)
    for key, value in {
        "model.name": "resnet20",
        "data.name": "folder",
        "data.path": "photos",
        "optimizer.learning_rate": 0.1,
        "training.epochs": 1,
        "training.batch_size": 32,
    }.items():
        others.choose(key, value)
    find(others.recipe().model.name)


def _choose(
    request: Request,
    given: dict[str, Any],
    photos: Photos,
    budget: Budget,
    weights: InitialWeights | None,
    largest: int,
    deeper: bool,
) -> Choices:
    """Return the choices that need no measurement of a network."""
    choices = Choices(given)
    model = weights.model if weights else ""
    choosing.choose_input(
        choices, photos, budget, weights_model=model, largest=largest, deeper=deeper
    )
    if weights:
        choices.choose("model.weights", weights.source, "Training starts from these weights.")
    choices.choose("data.name", "folder")
    choices.choose("data.path", os.path.abspath(request.folder))  # noqa: PTH100
    left_out = len(photos.left_out)
    choices.choose(
        "data.skip_bad",
        True,
        f"{left_out} of {photos.files} files are left out; {LEFT_OUT} in the run lists them.",
    )
    # Placeholders, since the section must be complete before mean and std are measured.
    for key in ("mean", "std"):
        choices.choose(f"data.{key}", [1.0] * choices.values["data.channels"])
    choosing.choose_training(choices, photos, budget, pretrained=weights is not None)
    if weights:
        levels = [*weights.mean], [*weights.std]
        reason = weights.reason
    else:
        levels = measure_levels(photos, choices.recipe().data)
        reason = f"Measured on {len(photos.sample)} training images."
    choices.choose("data.mean", levels[0], reason)
    choices.choose("data.std", levels[1])
    return choices


def _report(photos: Photos) -> None:
    """Print the files that are left out, and the warnings about the other files."""
    shown = 20
    for path, reason in photos.left_out[:shown]:
        print_message(f"left out {path}: {reason}")
    if len(photos.left_out) > shown:
        print_message(f"and {len(photos.left_out) - shown} more, which {LEFT_OUT} lists")
    for warning in photos.warnings:
        print_message(warning)


def _format(choices: Choices, photos: Photos, request: Request) -> str:
    """Return the recipe as TOML, with the reason for each choice above it."""
    counts = sorted(photos.classes.items(), key=lambda each: each[1])
    (fewest, least), (most, highest) = counts[0], counts[-1]
    splits = ", ".join(f"{count} for {name}" for name, count in photos.splits.items())
    lines = [
        _comment(
            f"Photos in {_in_comment(str(request.folder))}: {sum(photos.classes.values())} usable "
            f"images of {len(photos.classes)} classes, from {least} ({fewest}) to {highest} "
            f"({most}) per class; {splits}. This recipe was made by"
        ),
        "#",
        f"{_COMMAND}{request.arguments()}",
        "#",
        _comment(
            "The same command continues with this recipe. `keras-cnns train --recipe FILE --run "
            "DIRECTORY` trains it again."
        ),
    ]
    keys = sorted(choices.values.items(), key=lambda each: _SECTIONS.index(_section(each[0])))
    remaining = {key: value for key, value in choices.given.items() if key not in choices.values}
    by_section = {name: list(items) for name, items in groupby(keys, lambda e: _section(e[0]))}
    for section in _SECTIONS:
        given = [each for each in remaining.items() if _section(each[0]) == section]
        if not (entries := [*by_section.get(section, []), *given]):
            continue
        lines += ["", f"[{section}]"]
        for path, value in entries:
            reason = choices.reasons.get(path, "This value was given with --set.")
            if reason:
                lines.append(_comment(reason))
            lines.append(_assignment(path.partition(".")[2], value))
    return "\n".join(lines) + "\n"


def _in_comment(text: str) -> str:
    """Escape the characters that a comment of TOML cannot have, such as line breaks."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _section(path: str) -> str:
    return path.partition(".")[0]


def _assignment(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{key} = [{', '.join(tomli_w.dumps({'x': each})[4:].strip() for each in value)}]"
    return tomli_w.dumps({key: value}).strip()


def _comment(text: str) -> str:
    return textwrap.fill(
        text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _format_left_out(photos: Photos) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "reason"))
    writer.writerows(photos.left_out)
    return text.getvalue()
