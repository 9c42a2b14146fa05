"""Plan a training for a folder of photos: a recipe with its reasons, written beside the run."""

import io
import os
import shlex
import textwrap
import time
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from keras_cnns.cores import available_cores, has_bfloat16
from keras_cnns.data import Splits
from keras_cnns.files import create_text, read_text, write_text
from keras_cnns.fit import choices as choosing
from keras_cnns.fit.choices import Choices
from keras_cnns.fit.initial_weights import (
    InitialWeights,
    find_initial_weights,
    find_published_weights,
)
from keras_cnns.fit.measurement import Measurement, measure
from keras_cnns.fit.networks import Budget, is_too_slow
from keras_cnns.fit.photos import SIZES, Photos, examine, measure_levels
from keras_cnns.messages import print_message
from keras_cnns.recipes import Recipe, parse_overrides
from keras_cnns.registry import find
from keras_cnns.spreadsheets import format_csv

LEFT_OUT = "left_out.csv"
_COMMAND = "#     keras-cnns fit "  # how the line of the recipe with the command begins
# Seconds; with less time for the training, bfloat16 is not measured.
_MIN_SECONDS_TO_COMPARE = 120.0
_FINISHING_SECONDS = 60.0  # time for the imports, and for test, report and export at the end
_SECTIONS = ("model", "data", "augmentation", "class_balance", "optimizer", "training")


@dataclass(frozen=True)
class Request:
    """The arguments of `keras-cnns fit` on which the recipe depends."""

    folder: Path
    minutes: float
    # The path of a file, a published name, or "none" to train from scratch; "" if `make_plan` shall
    # choose.
    weights: str = ""
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
    """Write a plan beside its run. The recipe is written last, so it completes the plan.

    Raises:
        FileExistsError: there is a plan already; its recipe is not changed.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    write_text(left_out_path(run), plan.left_out, is_shared=True)
    create_text(recipe_path(run), plan.recipe)


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
            f"command is now `keras-cnns fit {wanted}`. Give the same arguments to continue, "
            f"choose another --run, or remove {path} and {run} to begin anew"
        )


def make_plan(request: Request, *, download: bool = True) -> Plan:
    """Examine a folder, choose a recipe, and measure it.

    Nothing is written, except weights into a cache.

    Args:
        request: the arguments of the command.
        download: whether published weights that are in no cache are downloaded.

    Raises:
        ValueError: the folder cannot be trained on, the given weights cannot be read or downloaded,
            or an override is wrong.
    """
    given = parse_overrides(request.overrides)
    _check_given(given)
    asked = request.weights or str(given.get("model.weights", ""))
    automatic = not request.weights and "model.weights" not in given
    # Given weights are downloaded before the photos are read, so that an error occurs early.
    weights = find_initial_weights(asked, str(given.get("model.name", "")), download=download)
    reason = f"The option --weights {asked} was given."
    start = time.perf_counter()
    photos = examine(request.folder)
    _report(photos)

    def budget() -> Budget:
        used = time.perf_counter() - start
        seconds = request.minutes * 60 - used - _FINISHING_SECONDS
        return Budget(
            seconds=seconds,
            cores=available_cores(),
            memory=int(psutil.virtual_memory().available),
            bfloat16=has_bfloat16() and _may_use_bfloat16(given, seconds),
        )

    if automatic:
        before = time.perf_counter()
        weights, reason = _choose_weights(photos, budget(), given, download=download)
        start += time.perf_counter() - before  # the time of the download does not count
    largest, fastest = SIZES[-1], False
    while True:
        pretrained = weights is not None
        choices = _choose(request, given, photos, budget(), weights, reason, largest, fastest)
        recipe = choices.recipe()
        if weights is not None and not weights.is_present:
            recipe = replace(recipe, model=replace(recipe.model, weights="", frozen_epochs=0))
        # Hide warnings about the left-out files, which were printed already.
        with redirect_stderr(io.StringIO()):
            measured = _measure(choices, recipe, budget())
        epochs, size = choosing.epochs_in(budget(), measured), recipe.data.image_size
        precision = choices.recipe().training.precision
        print_message(
            f"measured {recipe.model.name} with {size} x {size} pixels: "
            f"{measured.step_seconds * 1e3:.0f} ms per step in {precision}, so that there is time "
            f"for {epochs} epochs"
        )
        # Network and size were chosen for a typical speed. If the measured speed leaves time for at
        # most half of the required epochs, try the fastest network, and then the next smaller size.
        too_slow = is_too_slow(recipe.model.name, size, epochs)
        if too_slow and not (fastest or pretrained or "model.name" in given):
            fastest = True
            continue
        smaller = choosing.smaller_sizes(size, pretrained=pretrained)
        enough = epochs * 2 > choosing.min_epochs(pretrained=pretrained)
        if not enough and smaller and "data.image_size" not in given:
            largest = smaller[-1]
        elif not enough and automatic and pretrained:
            weights, largest = None, SIZES[-1]
            reason = (
                f"As measured, there is time for {epochs} epochs of {recipe.model.name} with "
                f"{size} x {size} pixels, which are too few to fine-tune published weights."
            )
            _report_weights(weights, reason)
        else:
            break
    choosing.choose_learning_rate(choices, measured)
    choosing.choose_epochs(choices, budget(), measured, pretrained=pretrained)
    choices.recipe()  # raises an exception for a wrong given value before anything is written
    return Plan(_format(choices, photos, request), _format_left_out(photos))


def _check_given(given: dict[str, Any]) -> None:
    """Raise ValueError if one of the user's values is wrong.

    This is checked before the folder is read, with arbitrary values for the other keys.
    """
    others = Choices(given)
    # Values for each channel imply colour images, unless the number of channels is given, too.
    values = max((given.get(f"data.{key}", []) for key in ("mean", "std")), key=_count)
    channels = given.get("data.channels", 3 if _count(values) == 3 else 1)
    size = others.choose("data.image_size", 32)
    others.choose("data.channels", channels)
    for key in ("mean", "std"):
        others.choose(f"data.{key}", [1.0] * (channels if channels in (1, 3) else 1))
    others.choose("data.resize_shorter", size)
    for key, value in {
        "model.name": "resnet20",
        "model.weights": "any",  # since other keys require weights
        "data.name": "folder",
        "data.path": "photos",
        "optimizer.learning_rate": 0.1,
        "training.epochs": 1,
        "training.batch_size": 32,
    }.items():
        others.choose(key, value)
    find(others.recipe().model.name)


def _count(values: Any) -> int:
    return len(values) if isinstance(values, list | tuple) else 0


def _choose_weights(
    photos: Photos, budget: Budget, given: dict[str, Any], *, download: bool
) -> tuple[InitialWeights | None, str]:
    """Return published weights, or None to train from scratch, and the reason; report both."""
    rows, reason = choosing.published_weights(photos, budget, given)
    weights, failure = find_published_weights(rows, download=download)
    # Without weights after a failed download, the comparison of the networks explains nothing.
    reasons = [failure] if failure and not weights else [failure, reason]
    reason = " ".join(filter(None, reasons))
    _report_weights(weights, reason)
    return weights, reason


def _choose(
    request: Request,
    given: dict[str, Any],
    photos: Photos,
    budget: Budget,
    weights: InitialWeights | None,
    weights_reason: str,
    largest: int,
    fastest: bool,
) -> Choices:
    """Return the choices that need no measurement of a network."""
    choices = Choices(given)
    model = weights.model if weights else ""
    choosing.choose_input(
        choices, photos, budget, weights_model=model, largest=largest, fastest=fastest
    )
    start = "these weights" if weights else "scratch"
    choices.choose(
        "model.weights",
        weights.source if weights else "",
        _in_comment(f"Training starts from {start}. {weights_reason}".strip()),
    )
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


def _may_use_bfloat16(given: dict[str, Any], seconds: float) -> bool:
    """Return whether a training in bfloat16 can be chosen, or is given.

    Args:
        given: `section.key` -> the user's value.
        seconds: the time of the training.
    """
    if "training.precision" in given:
        return bool(given["training.precision"] == "bfloat16")
    return seconds >= _MIN_SECONDS_TO_COMPARE


def _measure(choices: Choices, recipe: Recipe, budget: Budget) -> Measurement:
    """Measure a recipe and, if the CPU has bfloat16 instructions, choose the faster precision."""
    splits = Splits(recipe.data)
    measured = measure(recipe, splits, budget.seconds)
    if not budget.bfloat16 or "training.precision" in choices.given:
        return measured
    training = replace(recipe.training, precision="bfloat16")
    # The first measurement has run the learning-rate finder, and the second one needs none.
    other = measure(replace(recipe, training=training), splits, 0.0)
    return choosing.choose_precision(choices, measured, other)


def _report_weights(weights: InitialWeights | None, reason: str) -> None:
    """Print whether the training starts from published weights, and why."""
    start = weights.source if weights else "scratch"
    print_message(f"Training starts from {start}. {reason}".strip())


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
    if isinstance(value, dict):  # as an inline table; a table would be a section of its own
        entries = ", ".join(_assignment(name, each) for name, each in value.items())
        return f"{key} = {{ {entries} }}"
    return tomli_w.dumps({key: value}).strip()


def _comment(text: str) -> str:
    return textwrap.fill(
        text,
        100,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _format_left_out(photos: Photos) -> str:
    return format_csv([("file", "reason"), *photos.left_out])
