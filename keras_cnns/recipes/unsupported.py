"""Explain why some features of other projects have no key or option."""

from typing import Any

MULTI_LABEL = "classification with several labels for an image is not supported"
_SINGLE_LABEL = (
    "every image has exactly one class, and the networks end in a softmax over the classes; "
    f"{MULTI_LABEL}"
)
_TEST_TIME_AUGMENTATION = (
    "test-time augmentation is not supported: each image is predicted once, without augmentation, "
    "as in the served model, so that the measured accuracy is that of the served model"
)
_BINARY = ("binary_crossentropy", "bce", "sigmoid", "multi_label", "multilabel", "binary_focal")
# From the name of a key (without its section) or of an option to the reason why it does not exist.
_KEYS = {
    **dict.fromkeys(("multi_label", "multilabel"), _SINGLE_LABEL),
    **dict.fromkeys(("tta", "test_time_augmentation"), _TEST_TIME_AUGMENTATION),
}


def explain_unsupported_key(key: str, value: Any) -> str | None:
    """Return the message for an unknown key, `section.key`, if its feature is not supported.

    Returns:
        The message; None if the key does not belong to a feature that is known to be unsupported.
    """
    last = key.rpartition(".")[2]
    if last in _KEYS:
        return f"{key}: {_KEYS[last]}"
    if last == "loss":
        given = str(value).lower()
        if any(each in given for each in _BINARY):
            return f"{key} is {value!r}: {_SINGLE_LABEL}"
        return (
            f"there is no key {key}: the loss is the cross-entropy of the softmax; for a focal "
            "loss, set class_balance.focal_gamma, and for weights of the classes, set "
            "class_balance.weights"
        )
    return None


def explain_unsupported_option(option: str) -> str | None:
    """Return the message for an unknown option such as `--tta`, or None for other options."""
    reason = _KEYS.get(option.lstrip("-").replace("-", "_"))
    return reason and f"there is no option {option}: {reason}"
