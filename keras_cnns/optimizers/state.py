"""An optimizer's state on disk: matched by name and variable path, never by position."""

from typing import Any

SEPARATOR = "|"  # for the path's "/", which HDF5 would take for a folder


def save_state(state: dict[str, Any], store: Any) -> None:
    """Write name -> value."""
    for name, variable in state.items():
        store[name.replace("/", SEPARATOR)] = variable.numpy()


def load_state(state: dict[str, Any], store: Any, *, owner: str) -> None:
    """Read every variable of the state from the store, or none and raise.

    Keras puts an outer model's name into a path or leaves it out (`net/conv/kernel`,
    `conv/kernel`), by which of the two was built first. So where a path is not found, the saved one
    that differs only in outer scopes is taken; of several the nearest, if that is one alone.

    A state saved before the first step is empty, and loads as the zeros that it stands for.

    Raises:
        ValueError: a name is missing, surplus, or of another shape; each is listed.
    """
    saved = {key.replace(SEPARATOR, "/"): key for key in store.keys()}  # noqa: SIM118 (no dict)
    if _is_fresh(saved, store):
        state = {name: variable for name, variable in state.items() if name in saved}
    source = _match(list(state), list(saved))
    problems = [f"missing: {name}" for name in state if name not in source]
    problems += [f"surplus: {name}" for name in saved if name not in source.values()]
    values = {name: store[saved[other]][...] for name, other in source.items()}
    problems += [
        f"shape of {name}: {values[name].shape} was saved, {tuple(variable.shape)} is needed"
        for name, variable in state.items()
        if name in values and tuple(values[name].shape) != tuple(variable.shape)
    ]
    if problems:
        raise ValueError(
            f"the saved state is not that of {owner}:\n  "
            + "\n  ".join(problems)
            + "\nBuild the optimizer on the same variables and with the same options "
            "(optimizer.build(model.trainable_variables)) before loading; or leave its state out: "
            "load_model(path, compile=False), or load weights before compile."
        )
    for name, value in values.items():
        state[name].assign(value)


def _match(names: list[str], saved: list[str]) -> dict[str, str]:
    """Return needed -> saved: what is equal, and what is but for outer scopes."""
    source = {name: name for name in names if name in saved}
    free = [other for other in saved if other not in source]
    near = {name: _nearest(name, free) for name in names if name not in source}
    claims = list(near.values())
    return source | {name: one for name, one in near.items() if one and claims.count(one) == 1}


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
