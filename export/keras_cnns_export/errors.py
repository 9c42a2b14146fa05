"""The one error of this package, and the check that many of its arguments share."""

from collections.abc import Collection


class ExportError(ValueError):
    """Why nothing was published: what was wrong, where, and what would be right."""


def check_names(kind: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise `ExportError` unless `names` has at least one name and all are among `known`."""
    if isinstance(names, str):
        raise ExportError(f"{kind}s must be a list of names, as ({names!r},), not one string")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ExportError(f"unknown {kind} {unknown[0]!r}; there are: {', '.join(known)}")
    if not names:
        raise ExportError(f"no {kind} asked for; there are: {', '.join(known)}")
