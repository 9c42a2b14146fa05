"""Explain why some features of other projects have no key or option."""

from typing import Any

MULTI_LABEL = "classification with several labels for an image is not supported"
_SINGLE_LABEL = (
    "every image has exactly one class here, and the networks end in a softmax over the classes; "
    f"{MULTI_LABEL}"
)
_TEST_TIME_AUGMENTATION = (
    "test-time augmentation is not supported: every prediction is that of one image, as the "
    "exported model makes it, so that the measured accuracy is that of the served model"
)
_BINARY = ("binary_crossentropy", "bce", "sigmoid", "multi_label", "multilabel", "binary_focal")
# Name of a key without its section, or of an option -> why the feature is not supported.
_KEYS = {
    **dict.fromkeys(("multi_label", "multilabel"), _SINGLE_LABEL),
    **dict.fromkeys(("tta", "test_time_augmentation"), _TEST_TIME_AUGMENTATION),
}


def explain_unsupported_key(key: str, value: Any) -> str | None:
    """Return the message for an unknown key, `section.key`, of an unsupported feature.

    Returns:
        The message; None if the key does not belong to such a feature.
    """
    last = key.rpartition(".")[2]
    if last in _KEYS:
        return f"{key}: {_KEYS[last]}"
    if last == "loss":
        given = str(value).lower()
        if any(each in given for each in _BINARY):
            return f"{key} is {value!r}: {_SINGLE_LABEL}"
        return (
            f"there is no key {key}: the loss is the cross-entropy of the softmax, which "
            "class_balance.focal_gamma makes a focal loss and class_balance.weights weights by "
            "class"
        )
    return None


def explain_unsupported_option(option: str) -> str | None:
    """Return the message for an unknown option such as `--tta`, or None for other options."""
    reason = _KEYS.get(option.lstrip("-").replace("-", "_"))
    return reason and f"there is no option {option}: {reason}"
