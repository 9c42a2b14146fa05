"""Capture and restore the state of a training between two steps."""

import random
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cnns.optimizers.state import SEPARATOR, match_names
from keras_cnns.runs.renamed_metrics import rename_old_metrics
from keras_cnns.training.checkpoint import CheckpointError, is_plain
from keras_cnns.training.variables import fetch_variables

Array = np.ndarray[Any, Any]
Values = dict[str, Array]
# Attributes that do not belong to the state. Keras sets the first two at each start, and
# `EarlyStopping` changes the sign of `min_delta` when it is first used.
_NOT_STATE = ("params", "validation_data", "min_delta")


@dataclass(frozen=True)
class Snapshot:
    """The state of a training between two steps."""

    step: int  # number of steps taken, over all epochs
    seconds: float  # time that the steps took
    variables: Values  # path -> value of weights, statistics and seeds
    optimizer: Values  # the state of the optimizer, in the form in which it saves itself
    metrics: Values  # the variables of the metrics, accumulated in the epoch so far
    callbacks: list[dict[str, Any]]  # `name` and `state` of each callback, in order
    generators: dict[str, Any]  # the states of Python's and NumPy's random generators

    def is_finite(self) -> bool:
        """Return whether all weights and the whole state of the optimizer are finite."""
        values = [*self.variables.values(), *self.optimizer.values()]
        return all(np.isfinite(np.sum(each, dtype=np.float64)) for each in values)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, for `write_checkpoint`."""
        return dict(vars(self))


def capture(
    model: keras.Model,
    callbacks: Sequence[Any],
    step: int,
    seconds: float,
    initial: Sequence[dict[str, Any]] = (),
) -> Snapshot:
    """Copy the state of a training.

    Args:
        model: a compiled and built model; its optimizer and metrics are copied too.
        callbacks: the callbacks in their order.
        step: number of steps taken.
        seconds: the time that the steps took.
        initial: the `plain_attributes` of each callback when training began. If a callback has no
            entry, all its attributes count as changed.
    """
    fetch_variables(model)
    unchanged = [*initial, *[{}] * (len(callbacks) - len(initial))]
    return Snapshot(
        step=step,
        seconds=seconds,
        variables=_values(_variables(model)),
        optimizer=_optimizer_values(model),
        metrics=_values(_metrics(model)),
        callbacks=[
            {"name": type(callback).__name__, "state": _callback_state(callback, attributes)}
            for callback, attributes in zip(callbacks, unchanged, strict=True)
        ],
        generators={"python": random.getstate(), "numpy": np.random.get_state()},
    )


def restore(snapshot: Snapshot, model: keras.Model) -> None:
    """Assign the values of a snapshot to a model, its optimizer and metrics.

    Names that Keras gave to layers automatically may have other numbers than in the snapshot,
    because the model may have been built again in the same process (see `match_names`).

    Raises:
        CheckpointError: the snapshot belongs to another model; the message names the difference.
    """
    fetch_variables(model)
    pairs = [
        *_pair("weight", _variables(model), snapshot.variables),
        *_pair("metric", _metrics(model), snapshot.metrics),
    ]
    _pair("optimizer state", _by_path(_optimizer_values(model)), _by_path(snapshot.optimizer))
    model.optimizer.load_own_variables(snapshot.optimizer)
    for variable, value in pairs:
        variable.assign(value)


def restore_callbacks(snapshot: Snapshot, callbacks: Sequence[Any]) -> None:
    """Restore the state of callbacks, and of the random generators of Python and NumPy.

    If an earlier version wrote the state, metrics in it get their current names.

    Raises:
        CheckpointError: the snapshot has the state of other callbacks.
    """
    here = [type(callback).__name__ for callback in callbacks]
    there = [entry["name"] for entry in snapshot.callbacks]
    if here != there:
        raise CheckpointError(
            "the checkpoint belongs to a training with the callbacks "
            f"{', '.join(there) or 'none'}; this training has {', '.join(here) or 'none'}. "
            "Use the same callbacks, or start in another directory"
        )
    for callback, entry in zip(callbacks, snapshot.callbacks, strict=True):
        # The names on the first level are not metrics but attributes.
        state = {name: rename_old_metrics(value) for name, value in entry["state"].items()}
        if hasattr(callback, "set_state"):
            callback.set_state(state)
        else:
            vars(callback).update(state)
    random.setstate(snapshot.generators["python"])
    np.random.set_state(snapshot.generators["numpy"])


def plain_attributes(callback: Any) -> dict[str, Any]:
    """Return copies of the attributes of a callback that can be written to a checkpoint."""
    return {
        name: deepcopy(value)
        for name, value in vars(callback).items()
        if name not in _NOT_STATE and not isinstance(value, str) and is_plain(value)
    }


def _callback_state(callback: Any, initial: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a callback: the result of `get_state()`, or the changed attributes."""
    if hasattr(callback, "get_state"):
        return dict(deepcopy(callback.get_state()))
    return {
        name: value
        for name, value in plain_attributes(callback).items()
        if name not in initial or not _is_equal(value, initial[name])
    }


def _is_equal(one: Any, other: Any) -> bool:
    try:
        keras.tree.assert_same_structure(one, other)
    except (TypeError, ValueError):
        return False
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(np.array_equal(value, former) for value, former in pairs)


def _variables(model: keras.Model) -> dict[str, Any]:
    """Return path -> variable of a model.

    The path of a seed contains a number that counts all seeds of the process. The seeds of the
    model are therefore named `seed`, `seed'`, `seed''` and so on instead.
    """
    named: dict[str, Any] = {}
    for variable in model.variables:
        name = variable.path if variable.name != "seed_generator_state" else "seed"
        while name in named:
            name += "'"  # equal paths are distinguished by their order
        named[name] = variable
    return named


def _metrics(model: keras.Model) -> dict[str, Any]:
    variables = model.metrics_variables
    return {f"{number}/{variable.name}": variable for number, variable in enumerate(variables)}


def _optimizer_values(model: keras.Model) -> Values:
    values: Values = {}
    model.optimizer.save_own_variables(values)
    return {name: np.asarray(value) for name, value in values.items()}


def _by_path(values: Values) -> Values:
    return {name.replace(SEPARATOR, "/"): value for name, value in values.items()}


def _values(variables: dict[str, Any]) -> Values:
    return {name: ops.convert_to_numpy(variable) for name, variable in variables.items()}


def _pair(kind: str, here: dict[str, Any], there: Values) -> Iterable[tuple[Any, Array]]:
    """Return each variable with its value in a snapshot.

    Raises:
        CheckpointError: a variable has no value in the snapshot, or a value of another shape.
    """
    source = match_names(list(here), list(there))
    surplus = set(there) - set(source.values())
    problems = [
        *(
            f"{kind} {name} has shape {tuple(variable.shape)} in this model and "
            + (f"{there[source[name]].shape} in" if name in source else "is not in")
            + " the checkpoint"
            for name, variable in here.items()
            if name not in source or there[source[name]].shape != tuple(variable.shape)
        ),
        *(
            f"{kind} {name} is in the checkpoint but not in this model"
            for name in there
            if name in surplus
        ),
    ]
    if problems:
        more = f", and {len(problems) - 1} more differ" if len(problems) > 1 else ""
        raise CheckpointError(f"the checkpoint belongs to another model: {problems[0]}{more}")
    return [(here[name], there[other]) for name, other in source.items()]
