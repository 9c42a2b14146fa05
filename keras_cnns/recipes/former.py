"""Keys that recipes of earlier versions had, and what has replaced them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Section = Mapping[str, Any]


@dataclass(frozen=True)
class FormerKey:
    """A row of the table."""

    key: str  # the current one, `section.key`
    value: Callable[[Section], Any]  # its value, from the section as it was written then
    advice: str  # for a user whose recipe has the former key


FORMER_KEYS = {
    "optimizer.hold_rate": FormerKey(
        "optimizer.warmup_learning_rate",
        lambda optimizer: optimizer["hold_rate"],
        "the learning rate of the first warmup_steps steps (He et al. 2015: 0.01 for 400 steps)",
    ),
    "optimizer.hold_until_error": FormerKey(
        "optimizer.warmup_steps",
        lambda optimizer: 400 if optimizer.get("hold_rate") else 0,
        "a number of steps instead of a training error (He et al. 2015: about 400 steps)",
    ),
}


def replace_former_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's sections with current keys in place of former ones."""
    replaced = {name: dict(section) for name, section in values.items()}
    for former, row in FORMER_KEYS.items():
        section, _, key = former.partition(".")
        if key in replaced.get(section, {}):
            new_section, _, new_key = row.key.partition(".")
            replaced.setdefault(new_section, {})[new_key] = row.value(values[section])
            del replaced[section][key]
    return replaced
