"""Recipe keys of earlier versions and the keys that replace them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_Section = Mapping[str, Any]


@dataclass(frozen=True)
class _RenamedKey:
    """The current key that replaces an old key, and its value."""

    key: str  # the current key, `section.key`
    advice: str = ""  # instructions for the user if the value must change as well
    # A function that takes the old section and the old key, and returns the current value; the
    # default returns the old value.
    value: Callable[[_Section, str], Any] = lambda section, old_key: section[old_key]


RENAMED_KEYS = {
    "data.samples": _RenamedKey("data.num_examples"),
    "augmentation.rand_augment_layers": _RenamedKey("augmentation.rand_augment_num_ops"),
    "optimizer.decay_norm_and_bias": _RenamedKey("optimizer.weight_decay_on_norm_and_bias"),
    "optimizer.bias_rate": _RenamedKey("optimizer.bias_learning_rate_multiplier"),
    "optimizer.rate_batch_size": _RenamedKey("optimizer.reference_batch_size"),
    "optimizer.warmup_steps": _RenamedKey("optimizer.constant_warmup_steps"),
    "optimizer.warmup_learning_rate": _RenamedKey("optimizer.constant_warmup_learning_rate"),
    "optimizer.hold_rate": _RenamedKey(
        "optimizer.constant_warmup_learning_rate",
        "the learning rate of the first constant_warmup_steps steps (He et al. 2015: 0.01)",
    ),
    "optimizer.hold_until_error": _RenamedKey(
        "optimizer.constant_warmup_steps",
        "a number of steps instead of a training error (He et al. 2015: about 400 steps)",
        lambda optimizer, _: 400 if optimizer.get("hold_rate") else 0,
    ),
    "optimizer.decay_epochs": _RenamedKey("optimizer.decay_every_epochs"),
    "optimizer.rise": _RenamedKey("optimizer.rise_fraction"),
    "optimizer.average_decay": _RenamedKey("optimizer.ema_momentum"),
    "training.steps": _RenamedKey("training.max_steps"),
}


def rename_old_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a recipe, in which current keys replace the old ones."""
    renamed = {name: dict(section) for name, section in values.items()}
    for old, row in RENAMED_KEYS.items():
        section, _, old_key = old.partition(".")
        if old_key in renamed.get(section, {}):
            new_section, _, new_key = row.key.partition(".")
            renamed.setdefault(new_section, {})[new_key] = row.value(values[section], old_key)
            del renamed[section][old_key]
    return renamed


def explain_renamed_key(key: str) -> str | None:
    """Return the message for an old key, `section.key`, or None if the key never existed."""
    if key not in RENAMED_KEYS:
        return None
    row = RENAMED_KEYS[key]
    if row.advice:
        return f"{key} was replaced by {row.key}: {row.advice}"
    return f"{key} was renamed to {row.key}"
