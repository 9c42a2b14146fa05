"""The names of losses and metrics in Keras' logs."""

from collections.abc import Mapping
from typing import TypeVar

LOSS_SUM = "loss_sum"

Value = TypeVar("Value")


def by_main_output(logs: Mapping[str, Value]) -> dict[str, Value]:
    """Rename the logs of a model with several outputs so that `loss` is the main output's loss.

    In Keras' logs, `loss` is the weighted sum of all losses if the model has auxiliary outputs, and
    otherwise its only loss. These two kinds of `loss` must not be compared. After renaming, `loss`,
    `accuracy` and their `val_` counterparts belong to the main output in both cases, and `loss_sum`
    is the weighted sum, which includes regularisation losses.

    Args:
        logs: the logs, or the columns of a history. Without `main_loss`, they belong to a model
            with one output and are not changed.
    """

    def rename(name: str) -> str:
        prefix = "val_" if name.startswith("val_") else ""
        if f"{prefix}main_loss" not in logs:
            return name
        rest = name.removeprefix(prefix)
        return prefix + (LOSS_SUM if rest == "loss" else rest.removeprefix("main_"))

    return {rename(name): value for name, value in logs.items()}
