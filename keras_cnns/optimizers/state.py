"""Save and load an optimizer's state by variable path, whatever the order of the variables."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

SEPARATOR = "|"  # replaces "/" in paths, because each "/" would create a group in HDF5
_MAX_LISTED = 8  # maximum number of differences in a message


def save_state(state: dict[str, Any], store: Any) -> None:
    """Write a state (name -> variable) to a store (name -> array)."""
    for name, variable in state.items():
        store[name.replace("/", SEPARATOR)] = variable.numpy()


def load_state(
    state: dict[str, Any], store: Any, *, owner: str, is_built: bool, strict: bool
) -> None:
    """Assign all variables of a state from a store, or none of them if the store does not fit.

    A state that was saved before the first step has no slots; when it is loaded, all slots of the
    optimizer are set to 0.

    Args:
        state: name -> variable of the optimizer.
        store: name -> array, as `save_state` or another optimizer wrote it.
        owner: a description of the optimizer, for messages.
        is_built: whether the optimizer is built.
        strict: if the state does not fit, raise an error instead of a warning.

    Raises:
        ValueError: with `strict`, names are missing or surplus, or shapes differ; the message lists
            them.
    """
    saved = {key.replace(SEPARATOR, "/"): key for key in store.keys()}  # noqa: SIM118 (no dict)
    is_fresh = _is_fresh(saved, store)
    slots = {name: state[name] for name in state if is_fresh and name not in saved}
    needed = {name: variable for name, variable in state.items() if name not in slots}
    source = match_names(list(needed), list(saved))
    values = {name: store[saved[other]][...] for name, other in source.items()}
    problems = [
        *(f"missing: {name}" for name in needed if name not in source),
        *(f"surplus: {name}" for name in set(saved) - set(source.values())),
        *(
            f"shape of {name}: {values[name].shape} was saved, {tuple(variable.shape)} is needed"
            for name, variable in needed.items()
            if name in values and tuple(values[name].shape) != tuple(variable.shape)
        ),
    ]
    if not problems and (is_built or is_fresh):
        for name, value in values.items():
            state[name].assign(value)
        for variable in slots.values():
            variable.assign(np.zeros(variable.shape))
        return
    reason = (
        "the optimizer is not built yet; call optimizer.build(model.trainable_variables) before "
        "loading"
    )
    if is_built:
        reason = (
            f"the state does not fit ({_shorten(problems)}); the optimizer must have the same "
            "variables and options as the saved one"
        )
        if not saved:
            reason = "the file has no optimizer state"
        elif all(name.isdecimal() for name in saved):
            reason = "another optimizer saved it, such as Keras' SGD or Adam"
    message = (
        f"the saved optimizer state was not loaded into {owner}, because {reason}. "
        "Weights are not affected."
    )
    if strict:
        raise ValueError(message)
    warnings.warn(message, stacklevel=3)


def _shorten(problems: list[str]) -> str:
    more = [f"and {len(problems) - _MAX_LISTED} more"] if len(problems) > _MAX_LISTED else []
    return "; ".join([*sorted(problems)[:_MAX_LISTED], *more])


def match_names(needed: Sequence[str], saved: Sequence[str]) -> dict[str, str]:
    """Return required name -> saved name, for variables that are named by their paths.

    Equal names match. Two differences that Keras causes are ignored:

    - A path may or may not begin with the outer model's name (`model/conv/kernel`, `conv/kernel`),
      depending on whether the model or the layer was built first. Names that differ only in outer
      scopes therefore match. If there are several such names, the name with the fewest different
      scopes matches, unless another name has equally few.
    - Keras counts automatic names over a whole process: if a model is built again, it has `dense_2`
      and `dense_3` instead of `dense` and `dense_1`. If some names have no counterpart, all names
      are matched in the order of these numbers. This is done only if all numbers of a kind of
      layer, such as `dense`, differ by the same amount, or if all equal names match each other.

    A required name without a counterpart is not in the result.
    """
    matches: dict[str, str] = {}
    for slot in dict.fromkeys(name.rpartition(":")[0] for name in needed):
        here, there = (
            [name for name in names if name.rpartition(":")[0] == slot] for names in (needed, saved)
        )
        matches |= _match_slot(here, there)
    return matches


def _match_slot(needed: Sequence[str], saved: Sequence[str]) -> dict[str, str]:
    """Match the names of one slot."""
    known = set(saved)  # a set for speed, since a deep network has thousands of names
    source = {name: name for name in needed if name in known}
    free = [other for other in saved if other not in source]
    near = {name: _nearest(name, free) for name in needed if name not in source}
    claims = list(near.values())
    source |= {name: one for name, one in near.items() if one and claims.count(one) == 1}
    if len(source) == len(needed) == len(saved):
        return source
    return _match_renumbered(needed, saved) or source


def _match_renumbered(needed: Sequence[str], saved: Sequence[str]) -> dict[str, str] | None:
    """Match names that differ only in automatic numbers; return None for other differences."""
    here, there = (sorted(map(_split, names)) for names in (needed, saved))
    if [name.kinds for name in here] != [name.kinds for name in there]:
        return None
    pairs = list(zip(here, there, strict=True))
    shifts = {
        (kind, number - saved_number)
        for one, other in pairs
        for kind, number, saved_number in zip(one.kinds, one.numbers, other.numbers, strict=True)
    }
    is_rebuilt = len(shifts) == len({kind for kind, _ in shifts})
    # If only a part of the model was built again, equal names must match each other.
    keeps_names = all(one.name == other.name for one, other in pairs if one.name in saved)
    return {one.name: other.name for one, other in pairs} if is_rebuilt or keeps_names else None


class _Name(NamedTuple):
    """A path whose parts are split into kind and number, such as `dense_12` into `dense` and 12."""

    kinds: tuple[str, ...]
    numbers: tuple[int, ...]
    name: str


def _split(name: str) -> _Name:
    parts = [part.rpartition("_") for part in name.split("/")]
    split = [(k, int(n)) if k and n.isdecimal() else (k + _ + n, 0) for k, _, n in parts]
    return _Name(tuple(kind for kind, _ in split), tuple(number for _, number in split), name)


def _nearest(name: str, others: list[str]) -> str | None:
    """Return the `slot:path` that differs in the fewest outer scopes; None if it is not unique."""
    slot, _, path = name.rpartition(":")
    distances = {}
    for other in others:
        other_slot, _, other_path = other.rpartition(":")
        ends = f"/{path}".endswith(f"/{other_path}") or f"/{other_path}".endswith(f"/{path}")
        if slot == other_slot and ends:
            distances[other] = abs(path.count("/") - other_path.count("/"))
    nearest = [other for other, d in distances.items() if d == min(distances.values())]
    return nearest[0] if len(nearest) == 1 else None


def _is_fresh(saved: dict[str, str], store: Any) -> bool:
    """Return whether the store was written by an optimizer that had not been built."""
    return (
        "iteration" in saved
        and not any(":" in name for name in saved)
        and (int(store[saved["iteration"]][...]) == 0)
    )
