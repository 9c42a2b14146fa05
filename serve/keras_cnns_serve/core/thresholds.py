"""Thresholds: an image whose highest probability is below the threshold is unknown."""

import re
from typing import Any

import numpy as np

from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.repository.files import ModelVersion

_NUMBER = re.compile(r"(\d{1,20}(\.\d{0,20})?|\.\d{1,20})(e-?\d{1,3})?", re.ASCII | re.IGNORECASE)


def threshold_of(
    source: ModelVersion, min_probability: Any = None, min_accuracy: Any = None
) -> float | None:
    """Return the threshold that a request specifies, rounded to float32 as the probabilities are.

    Args:
        source: the version, whose model.json has thresholds for several accuracies.
        min_probability: the threshold itself, as a number or as text; or None.
        min_accuracy: an accuracy for which model.json has a threshold, as a number or as text; or
            None.

    Returns:
        The threshold, 0 to 1; None if both arguments are None.

    Raises:
        InvalidInputError: an argument is not a number from 0 to 1, both are given, or there is no
            threshold for the accuracy; the message lists the accuracies that have one.
    """
    if min_probability is not None and min_accuracy is not None:
        raise InvalidInputError("give min_probability or min_accuracy, not both")
    if min_probability is not None:
        return float(np.float32(_fraction(min_probability, "min_probability")))
    if min_accuracy is None:
        return None
    accuracy = _fraction(min_accuracy, "min_accuracy")
    known = {
        each.min_accuracy: each.threshold
        for each in source.manifest.thresholds
        if each.min_accuracy is not None
    }
    if accuracy not in known:
        existing = (
            f"it has thresholds for the accuracies {', '.join(f'{each:g}' for each in known)}"
            if known
            else "its model.json has none for any accuracy; give min_probability, from 0 to 1"
        )
        raise InvalidInputError(
            f"{source.name}/{source.version} has no threshold for the accuracy {accuracy:g}; "
            f"{existing}"
        )
    return float(np.float32(known[accuracy]))


def is_unknown(probability: float, threshold: float) -> bool:
    """Return whether the highest probability of an image is NaN or below the threshold."""
    return not probability >= threshold


def _fraction(value: Any, name: str) -> float:
    is_text = isinstance(value, str)
    if (is_text and _NUMBER.fullmatch(value)) or type(value) in (int, float):
        number = float(value)
        if 0 <= number <= 1:
            return number
    shown = value if is_text else repr(value)
    raise InvalidInputError(f"{name} must be a number from 0 to 1, not {shown!s:.40}")
