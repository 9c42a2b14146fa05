"""Callbacks that installed packages add to every training, such as experiment trackers.

A package adds a callback with an entry point in the group `keras_cnns.callbacks`. The entry point
is a function `make(recipe, run) -> keras.callbacks.Callback`, where `run` is the path of the run
directory. Checkpoints do not contain the state of the callback. After an interruption, `make` is
called again.
"""

import functools
import os
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import keras

from keras_cnns.messages import print_message
from keras_cnns.recipes import Recipe

_GROUP = "keras_cnns.callbacks"
DISABLED = "KERAS_CNNS_DISABLED_CALLBACKS"  # names of entry points, separated by commas, or "all"


class InstalledCallbackError(RuntimeError):
    """A callback of another package fails; the message names the package and the entry point."""


def find_installed() -> list[EntryPoint]:
    """Return the entry points of installed packages, except those that the user has disabled."""
    disabled = {name.strip() for name in os.environ.get(DISABLED, "").split(",")}
    if "all" in disabled:
        return []
    found = {each for each in entry_points(group=_GROUP) if each.name not in disabled}
    return sorted(found, key=lambda each: (each.name, each.value))


def describe(entry_point: EntryPoint) -> str:
    """Return the name of a callback, its package, and its entry point."""
    package = entry_point.dist
    origin = f"{package.name} {package.version}" if package else "an unknown package"
    return f"{entry_point.name} of {origin} ({_GROUP}: {entry_point.value})"


def make_installed(
    recipe: Recipe, run: Path, *, quiet: bool = False
) -> list[keras.callbacks.Callback]:
    """Return the callbacks of installed packages for a training; print their names unless `quiet`.

    Raises:
        InstalledCallbackError: a callback cannot be imported or made, or is not a callback. An
            error in one of its methods during the training is also raised as this error.
    """
    callbacks = []
    for entry_point in find_installed():
        make = _naming(entry_point, "its import", entry_point.load)()
        callback = _naming(entry_point, "making it", make)(recipe, run)
        if not isinstance(callback, keras.callbacks.Callback):
            raise _error(
                entry_point,
                f"the entry point returned a {type(callback).__name__} instead of a "
                "keras.callbacks.Callback",
            )
        for name in dir(keras.callbacks.Callback):
            # Keras marks methods that do nothing, and does not call a marked method at each
            # batch. Marked methods are not wrapped, because the wrapper would have no mark.
            method = getattr(callback, name)
            if name.startswith("on_") and not getattr(method, "_is_default", False):
                setattr(callback, name, _naming(entry_point, name, method))
        callbacks.append(callback)
        if not quiet:
            print_message(f"{run}: added the callback {describe(entry_point)}")
    return callbacks


def _naming(
    entry_point: EntryPoint, action: str, function: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap a function so that its errors name an entry point."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            raise _error(entry_point, f"{action} raised {type(error).__name__}: {error}") from error

    return call


def _error(entry_point: EntryPoint, problem: str) -> InstalledCallbackError:
    return InstalledCallbackError(
        f"the callback {describe(entry_point)} failed: {problem}. Uninstall or repair the package, "
        f"or set {DISABLED}={entry_point.name} to train without it"
    )
