"""The nets by name, with where each is from."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from importlib import resources
from typing import Any

import keras

from keras_cnns import suggestions
from keras_cnns.models.cost import Cost
from keras_cnns.models.googlenet import VARIANTS, googlenet
from keras_cnns.models.resnet import ARCHITECTURES, resnet

GOOGLENET = "Szegedy et al. 2014, arXiv:1409.4842"
RESNET = "He et al. 2015, arXiv:1512.03385"
PREACTIVATION = "He et al. 2016, arXiv:1603.05027"
PAPERS = {
    **dict.fromkeys(VARIANTS, GOOGLENET),
    **{name: PREACTIVATION if row.preactivation else RESNET for name, row in ARCHITECTURES.items()},
    "wide_resnet28_10": "Zagoruyko and Komodakis 2016, arXiv:1605.07146",
    "resnext50_32x4d": "Xie et al. 2017, arXiv:1611.05431",
}
# Published top-1 accuracy in per cent, and whose: ImageNet by one central crop of 224x224 unless
# it says otherwise, CIFAR-10 for the nets of 32x32 images.
TOP_1 = {
    "googlenet": "68.7 (Caffe)",
    "googlenet_tv": "69.8 (torchvision)",
    "resnet18": "69.8 (torchvision)",
    "resnet34": "73.3 (torchvision)",
    "resnet50": "76.1 (torchvision)",
    "resnet101": "77.4 (torchvision)",
    "resnet152": "78.3 (torchvision)",
    "resnet50_v1": "74.9 (keras.applications)",
    "resnet101_v1": "76.4 (keras.applications)",
    "resnet152_v1": "76.6 (keras.applications)",
    "resnet50_v2_keras": "76.0 (keras.applications)",
    "resnet101_v2_keras": "77.2 (keras.applications)",
    "resnet152_v2_keras": "78.0 (keras.applications)",
    "resnext50_32x4d": "77.6 (torchvision)",
    "plain18": "72.1 (paper, ten crops)",
    "plain34": "71.5 (paper, ten crops)",
    "resnet20": "91.3 (paper)",
    "resnet32": "92.5 (paper)",
    "resnet44": "92.8 (paper)",
    "resnet56": "93.0 (paper)",
    "resnet110": "93.6 (paper)",
    "resnet1202": "92.1 (paper)",
    "resnet110_v2": "93.6 (paper)",
    "resnet164_v2": "94.5 (paper)",
    "resnet1001_v2": "95.1 (paper)",
    "wide_resnet28_10": "96.0 (paper)",
}


# Counted once by `cost` at the papers' input sizes, since building all of them takes a minute.
FIGURES = json.loads(resources.files(__package__).joinpath("figures.json").read_text("utf-8"))


@dataclass(frozen=True)
class Entry:
    """One net of the registry."""

    build: Callable[..., keras.Model]
    paper: str
    cost: Cost  # at the paper's input size and number of classes
    top_1: str | None  # published accuracy and its source


def _entry(name: str, family: Callable[..., keras.Model]) -> Entry:
    """Bind the name, in a function that `help` and editors can read."""
    bound = partial(family, name)

    @wraps(family)
    def build(*arguments: Any, **options: Any) -> keras.Model:
        return bound(*arguments, **options)

    build.__name__ = build.__qualname__ = name
    build.__signature__ = inspect.signature(bound)  # type: ignore[attr-defined]
    return Entry(build, PAPERS[name], Cost(**FIGURES[name]), TOP_1.get(name))


MODELS: dict[str, Entry] = {
    **{name: _entry(name, googlenet) for name in VARIANTS},
    **{name: _entry(name, resnet) for name in ARCHITECTURES},
}


def find(name: str) -> Entry:
    """Return the registry's entry.

    Raises:
        ValueError: there is none of this name; the message has the nearest.
    """
    return suggestions.find(name, MODELS, "model")


def build(name: str, **options: Any) -> keras.Model:
    """Build the model of that name.

    Args:
        name: a key of MODELS.
        options: `input_shape=(H, W, C)`, `classes=K`, `aux_heads=True|False`, and what else the
            family's function takes: `googlenet.googlenet`, `resnet.resnet`.

    Returns:
        A `keras.Model` from images [N, H, W, C] to probabilities [N, K], or, with auxiliary
        heads, to a dict of them: `main`, `aux1`, `aux2`, ...

    Raises:
        ValueError: there is no such model, or an option is out of its range.
    """
    return find(name).build(**options)
