"""GoogLeNet and ResNet by name: `build("resnet20", input_shape=(32, 32, 1), classes=10)`."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

import keras

from keras_cnns.models.googlenet import GoogLeNet, Inception, inception_module
from keras_cnns.models.layers import IdentityShortcut, LocalResponseNormalization
from keras_cnns.models.resnet import ARCHITECTURES, resnet

__all__ = [
    "MODELS",
    "GoogLeNet",
    "IdentityShortcut",
    "Inception",
    "LocalResponseNormalization",
    "build",
    "inception_module",
]

MODELS: dict[str, Callable[..., keras.Model]] = {
    "googlenet": GoogLeNet,
    "googlenet_bn": partial(GoogLeNet, batch_norm=True, name="googlenet_bn"),
    **{name: partial(resnet, name) for name in ARCHITECTURES},
}


def build(name: str, **options: Any) -> keras.Model:
    """Build the model of that name.

    Args:
        name: a key of MODELS.
        options: `input_shape=(H, W, C)`, `classes=K`, `aux_heads=True|False`, and what else the
            model's own function takes.

    Returns:
        A `keras.Model` from images [N, H, W, C] to probabilities [N, K], or, with auxiliary
        heads, to a dict of them: `main`, `aux1`, `aux2`, ...

    Raises:
        ValueError: there is no such model, or an option is out of its range.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no model {name!r}.{hint} There are: {', '.join(MODELS)}")
    return MODELS[name](**options)
