"""Select variables by regular expressions on their paths, or by a predefined name."""

import re
from collections.abc import Iterable
from typing import Any

# Weight decay is commonly not applied to biases and to the scales and offsets of normalisation
# layers (He et al. 2019, "Bag of Tricks", section 3.1).
_NAMED_PATTERNS = {"norm_and_bias": r"(^|/)(gamma|beta|bias)$"}


def path_of(variable: Any) -> str:
    """Return a variable's path, such as `stage1/conv/kernel`; for a `tf.Variable`, its name."""
    return str(getattr(variable, "path", None) or variable.name.partition(":")[0])


def matches(pattern: str, variable: Any) -> bool:
    """Return whether a pattern matches a part of the variable's path or name.

    The pattern is a regular expression or a key of `_NAMED_PATTERNS`.
    """
    regex = re.compile(_NAMED_PATTERNS.get(pattern, pattern))
    return any(regex.search(text) for text in (path_of(variable), variable.name))


def matches_any(patterns: Iterable[str], variable: Any) -> bool:
    """Return whether one of several patterns matches the variable."""
    return any(matches(pattern, variable) for pattern in patterns)


def check_patterns(patterns: Iterable[str], variables: Iterable[Any], option: str) -> None:
    """Raise ValueError for a pattern that matches no variable, because it would have no effect."""
    variables = list(variables)
    for pattern in patterns:
        if pattern not in _NAMED_PATTERNS and not any(matches(pattern, v) for v in variables):
            paths = ", ".join(path_of(v) for v in variables[:5])
            more = f" and {len(variables) - 5} more" if len(variables) > 5 else ""
            names = "; ".join(f"{name!r} stands for {p}" for name, p in _NAMED_PATTERNS.items())
            raise ValueError(
                f"{option}: {pattern!r} matches the path of no variable; "
                f"the variables are {paths}{more}; {names}"
            )


def check_regexes(patterns: Any, option: str) -> list[str]:
    """Return the patterns as a list; raise ValueError for an invalid regular expression."""
    if isinstance(patterns, str):
        raise ValueError(f"{option} is the string {patterns!r}; it must be a list of strings")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{option}: {pattern!r} is not a valid regular expression: {error}"
            ) from None
    return list(patterns)
