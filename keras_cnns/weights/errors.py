"""The error for files of weights."""

from collections.abc import Iterable

_SHOWN = 4  # maximum number of names of a kind in the first line of a message


class WeightsError(ValueError):
    """A file of weights cannot be read or does not fit the model, and nothing was loaded.

    The first line of the message summarizes the error. The names of all missing, surplus, misshaped
    and invalid tensors follow.

    Attributes:
        missing: tensors that the model needs and the file lacks.
        surplus: tensors of the file for which the model has no variable.
        misshaped: tensors whose shape or data type differs from that of the model's variable.
        invalid: tensors with NaN, infinite values or, in variances, negative values.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Iterable[str] = (),
        surplus: Iterable[str] = (),
        misshaped: Iterable[str] = (),
        invalid: Iterable[str] = (),
    ) -> None:
        self.missing, self.surplus = tuple(missing), tuple(surplus)
        self.misshaped, self.invalid = tuple(misshaped), tuple(invalid)
        kinds = {
            "missing": self.missing,
            "surplus": self.surplus,
            "mis-shaped": self.misshaped,
            "invalid": self.invalid,
        }
        found = {kind: names for kind, names in kinds.items() if names}
        first = "; ".join(
            f"{len(names)} {kind} ({shorten(names)})" for kind, names in found.items()
        )
        every = [f"{kind}: {name}" for kind, names in found.items() for name in names]
        super().__init__("\n".join([f"{message}: {first}" if first else message, *every]))


def shorten(names: tuple[str, ...]) -> str:
    """Return the first names, and the number of further names."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
