"""An optimizer's state on disk: matched by name and variable path, never by position."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

SEPARATOR = "|"  # in place of the path's "/", which HDF5 would take for a group
LISTED = 8  # differences in a message


def save_state(state: dict[str, Any], store: Any) -> None:
    """Write name -> value."""
    for name, variable in state.items():
        store[name.replace("/", SEPARATOR)] = variable.numpy()


def load_state(
    state: dict[str, Any], store: Any, *, owner: str, is_built: bool, strict: bool
) -> None:
    """Assign every variable of a state from a store, or none of them.

    A state that was saved before the first step is empty, and loads as the zeros that it stands
    for.

    Args:
        state: name -> variable, as it is needed.
        store: name -> array, as `save_state` wrote it; of another optimizer, whatever that wrote.
        owner: the optimizer, in words.
        is_built: whether the optimizer has its variables.
        strict: raise an error where the state does not fit, instead of a warning.

    Raises:
        ValueError: with `strict`, names are missing or surplus, or shapes differ; each is listed.
    """
    saved = {key.replace(SEPARATOR, "/"): key for key in store.keys()}  # noqa: SIM118 (no dict)
    is_fresh = _is_fresh(saved, store)
    if is_fresh:
        state = {name: variable for name, variable in state.items() if name in saved}
    source = match_names(list(state), list(saved))
    values = {name: store[saved[other]][...] for name, other in source.items()}
    problems = [
        *(f"missing: {name}" for name in state if name not in source),
        *(f"surplus: {name}" for name in set(saved) - set(source.values())),
        *(
            f"shape of {name}: {values[name].shape} was saved, {tuple(variable.shape)} is needed"
            for name, variable in state.items()
            if name in values and tuple(values[name].shape) != tuple(variable.shape)
        ),
    ]
    if not problems and (is_built or is_fresh):
        for name, value in values.items():
            state[name].assign(value)
        return
    message = _describe(sorted(problems) if saved else ["none was saved"], owner, is_built)
    if strict:
        raise ValueError(message)
    warnings.warn(message, stacklevel=3)


def _describe(problems: list[str], owner: str, is_built: bool) -> str:
    shown = problems[:LISTED]
    if len(problems) > LISTED:
        shown.append(f"and {len(problems) - LISTED} more")
    remedy = (
        "Its options and variables must be those of the saved optimizer"
        if is_built
        else "It is not built yet; call optimizer.build(model.trainable_variables) before loading"
    )
    return (
        f"the optimizer {owner} keeps the state that it has, as the saved one does not fit "
        f"({'; '.join(shown)}). {remedy}."
    )


def match_names(needed: Sequence[str], saved: Sequence[str]) -> dict[str, str]:
    """Return needed name -> saved name, for variables named by their paths.

    Names that are equal belong together. Two differences are Keras' own and are seen through:

    - A path has the outer model's name or lacks it (`net/conv/kernel`, `conv/kernel`), depending on
      which of the two was built first. The saved name that differs only in outer scopes is taken;
      of several the nearest, if there is one nearest.
    - Keras numbers automatic names over a whole process: a model that is built again has
      `dense_2` and `dense_3` where it had `dense` and `dense_1`. If names are left over on either
      side, all are matched without these numbers, in their order, provided that this pairs every
      name.

    What has no counterpart is absent from the result.
    """
    source = {name: name for name in needed if name in saved}
    free = [other for other in saved if other not in source]
    near = {name: _nearest(name, free) for name in needed if name not in source}
    claims = list(near.values())
    source |= {name: one for name, one in near.items() if one and claims.count(one) == 1}
    if len(source) == len(needed) == len(saved):
        return source
    here, there = sorted(needed, key=_structure), sorted(saved, key=_structure)
    if [_structure(name)[0] for name in here] == [_structure(name)[0] for name in there]:
        return dict(zip(here, there, strict=True))
    return source


def _structure(name: str) -> tuple[str, list[int]]:
    """Return a name without the numbers of automatic names, and these numbers.

    >>> _structure("velocity:sequential_1/dense_12/kernel")
    ('velocity:sequential/dense/kernel', [1, 12, 0])
    """
    parts = [re.fullmatch(r"(.*?)(?:_(\d+))?('*)", part) for part in name.split("/")]
    found = [part for part in parts if part is not None]
    return "/".join(part[1] + part[3] for part in found), [int(part[2] or 0) for part in found]


def _nearest(name: str, others: list[str]) -> str | None:
    """Return the one `slot:path` that differs in the fewest outer scopes; None if two do."""
    slot, _, path = name.partition(":")
    distances = {}
    for other in others:
        other_slot, _, other_path = other.partition(":")
        ends = f"/{path}".endswith(f"/{other_path}") or f"/{other_path}".endswith(f"/{path}")
        if path and other_path and slot == other_slot and ends:
            distances[other] = abs(path.count("/") - other_path.count("/"))
    nearest = [other for other, d in distances.items() if d == min(distances.values())]
    return nearest[0] if len(nearest) == 1 else None


def _is_fresh(saved: dict[str, str], store: Any) -> bool:
    """Return whether the store is that of an optimizer that was never built."""
    return (
        "iteration" in saved
        and not any(":" in name for name in saved)
        and (int(store[saved["iteration"]][...]) == 0)
    )
