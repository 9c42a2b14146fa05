"""What is wrong with a file of weights."""

from collections.abc import Iterable

SHOWN = 4  # names of each kind in the message's first line; all of them follow it


class WeightsError(ValueError):
    """A file of weights cannot be read, or is not of this net; nothing of it was loaded.

    Attributes:
        missing: tensors that the net needs and the file lacks.
        surplus: tensors of the file that the net has no place for.
        misshaped: tensors of another shape, or of another kind of number, than the net's; each
            with both shapes.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Iterable[str] = (),
        surplus: Iterable[str] = (),
        misshaped: Iterable[str] = (),
    ) -> None:
        self.missing, self.surplus = tuple(missing), tuple(surplus)
        self.misshaped = tuple(misshaped)
        kinds = {"missing": self.missing, "surplus": self.surplus, "mis-shaped": self.misshaped}
        found = {kind: names for kind, names in kinds.items() if names}
        first = "; ".join(
            f"{len(names)} {kind} ({shorten(names)})" for kind, names in found.items()
        )
        every = [f"{kind}: {name}" for kind, names in found.items() for name in names]
        super().__init__("\n".join([f"{message}: {first}" if first else message, *every]))


def shorten(names: tuple[str, ...]) -> str:
    """Return the first of the names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
