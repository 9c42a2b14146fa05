"""Which variables an option means: regular expressions on their paths, and one word."""

import re
from collections.abc import Iterable
from typing import Any

# Scales and offsets of normalisation layers, and biases: what is commonly not decayed (He et al.
# 2019, "Bag of Tricks", section 3.1).
WORDS = {"norm_and_bias": r"(^|/)(gamma|beta|bias)$"}


def path_of(variable: Any) -> str:
    """Return `stage1/conv/kernel`; of a `tf.Variable`, which has no path, its name."""
    return str(getattr(variable, "path", None) or variable.name.partition(":")[0])


def matches(pattern: str, variable: Any) -> bool:
    """Return whether a pattern or a word of `WORDS` is found in the variable's path or name."""
    regex = re.compile(WORDS.get(pattern, pattern))
    return any(regex.search(text) for text in (path_of(variable), variable.name))


def check_patterns(patterns: Iterable[str], variables: Iterable[Any], option: str) -> None:
    """Raise ValueError for a pattern that means no variable: it would silently do nothing."""
    variables = list(variables)
    for pattern in patterns:
        if pattern not in WORDS and not any(matches(pattern, v) for v in variables):
            some = ", ".join(path_of(v) for v in variables[:5])
            more = f" and {len(variables) - 5} more" if len(variables) > 5 else ""
            raise ValueError(
                f"{option}: {pattern!r} is found in no variable's path; there are {some}{more}; "
                f"{' and '.join(map(repr, WORDS))} stands for {' and '.join(WORDS.values())}"
            )


def check_regexes(patterns: Any, option: str) -> list[str]:
    """Return the patterns as a list; raise ValueError for one that is no regular expression."""
    if isinstance(patterns, str):
        raise ValueError(f"{option} is the string {patterns!r}; it must be a list of strings")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{option}: {pattern!r} is no regular expression: {error}") from None
    return list(patterns)
