"""All that a training knows between two steps, as numbers: taken, and put back."""

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cnns.training.checkpoint import CheckpointError, is_plain

Values = dict[str, np.ndarray[Any, Any]]
# How a callback was set up, not what it remembers. Keras turns the sign of `min_delta` at the first
# use after each start.
NOT_MEMORY = ("params", "validation_data", "min_delta")


@dataclass(frozen=True)
class Snapshot:
    """A training between two steps."""

    step: int  # steps taken, over all epochs
    seconds: float  # that they took
    variables: Values  # weights, statistics and seeds, by path
    optimizer: Values  # as the optimizer itself saves it
    metrics: Values  # of the epoch so far
    callbacks: list[dict[str, Any]]  # `name` and `state` of each, in order
    generators: dict[str, Any]  # Python's and NumPy's

    def is_finite(self) -> bool:
        """Return whether every weight and all of the optimizer's state is a number."""
        values = [*self.variables.values(), *self.optimizer.values()]
        return all(np.isfinite(np.sum(each, dtype=np.float64)) for each in values)

    def as_dict(self) -> dict[str, Any]:
        """Return it as `write_checkpoint` takes it."""
        return dict(vars(self))


def take(model: keras.Model, callbacks: Sequence[Any], step: int, seconds: float) -> Snapshot:
    """Copy the state of a compiled and built model, its optimizer, metrics and callbacks."""
    _fetch(model)
    optimizer: Values = {}
    model.optimizer.save_own_variables(optimizer)
    return Snapshot(
        step=step,
        seconds=seconds,
        variables=_values(_variables(model)),
        optimizer={name: np.asarray(value) for name, value in optimizer.items()},
        metrics=_values(_metrics(model)),
        callbacks=[{"name": name, "state": _memory(each)} for name, each in _named(callbacks)],
        generators={"python": random.getstate(), "numpy": np.random.get_state()},
    )


def put_back(snapshot: Snapshot, model: keras.Model) -> None:
    """Give a model, its optimizer and metrics the values of a snapshot.

    Raises:
        CheckpointError: the snapshot is of another model; the message names the difference.
    """
    _fetch(model)
    optimizer: Values = {}
    model.optimizer.save_own_variables(optimizer)
    for kind, here, there in (
        ("weight", _variables(model), snapshot.variables),
        ("metric", _metrics(model), snapshot.metrics),
        ("optimizer state", optimizer, snapshot.optimizer),
    ):
        _compare(kind, {name: tuple(each.shape) for name, each in here.items()}, there)
    model.optimizer.load_own_variables(snapshot.optimizer)
    for variables, values in (
        (_variables(model), snapshot.variables),
        (_metrics(model), snapshot.metrics),
    ):
        for name, variable in variables.items():
            variable.assign(values[name])


def put_back_callbacks(snapshot: Snapshot, callbacks: Sequence[Any]) -> None:
    """Give callbacks, and the random generators of Python and NumPy, their state of then.

    Raises:
        CheckpointError: they are other callbacks than those of the snapshot.
    """
    named = _named(callbacks)
    here, there = [name for name, _ in named], [entry["name"] for entry in snapshot.callbacks]
    if here != there:
        raise CheckpointError(
            f"the checkpoint is of a training with the callbacks {', '.join(there) or 'none'}; "
            f"here are {', '.join(here) or 'none'}"
        )
    for (_, callback), entry in zip(named, snapshot.callbacks, strict=True):
        if hasattr(callback, "set_state"):
            callback.set_state(entry["state"])
        else:
            vars(callback).update(entry["state"])
    random.setstate(snapshot.generators["python"])
    np.random.set_state(snapshot.generators["numpy"])


def build(model: keras.Model, batch: Any) -> None:
    """Make the variables of a model's metrics and optimizer, which Keras makes at the first step.

    Args:
        model: compiled.
        batch: what `fit` gets, (x, y) or (x, y, sample_weight).
    """
    # Nothing public does it without a step or an evaluation; Keras' own trainers call it for JAX.
    model._symbolic_build(data_batch=batch)


def _memory(callback: Any) -> dict[str, Any]:
    """Return what a callback remembers: what it says itself, or its numbers, arrays and lists.

    Text, paths, functions and the like are how it was set up, and stay as they are.
    """
    if hasattr(callback, "get_state"):
        return dict(deepcopy(callback.get_state()))
    return {
        name: deepcopy(value)
        for name, value in vars(callback).items()
        if name not in NOT_MEMORY and not isinstance(value, str) and is_plain(value)
    }


def _named(callbacks: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(type(callback).__name__, callback) for callback in callbacks]


def _variables(model: keras.Model) -> dict[str, Any]:
    """Return a model's variables by path, seeds by number: their paths count over a process."""
    named: dict[str, Any] = {}
    for variable in model.variables:
        name = variable.path if variable.name != "seed_generator_state" else "seed"
        while name in named:
            name += "'"  # of equal paths the next in order
        named[name] = variable
    return named


def _metrics(model: keras.Model) -> dict[str, Any]:
    variables = model.metrics_variables
    return {f"{number}/{variable.name}": variable for number, variable in enumerate(variables)}


def _values(variables: dict[str, Any]) -> Values:
    return {name: ops.convert_to_numpy(variable) for name, variable in variables.items()}


def _fetch(model: keras.Model) -> None:
    """Have the variables hold their values: on JAX, `fit` keeps them to itself."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def _compare(kind: str, here: dict[str, tuple[int, ...]], there: Values) -> None:
    shapes = {name: value.shape for name, value in there.items()}
    if here == shapes:
        return
    names = [name for name in {**here, **shapes} if here.get(name) != shapes.get(name)]
    first = names[0]
    raise CheckpointError(
        f"the checkpoint is of another model: {kind} {first} is of shape "
        f"{shapes.get(first, 'none')} there and {here.get(first, 'none')} here"
        + (f", and {len(names) - 1} more differ" if len(names) > 1 else "")
    )
