"""GoogLeNet and ResNet, built by name or by functions.

`build("resnet20", input_shape=(32, 32, 1), classes=10)` and `ResNet20((32, 32, 1), 10)` build the
same model. `MODELS` lists all models.

Importing this package registers the layers, losses, optimizers and schedules of keras_cnns with
Keras, so that `keras.saving.load_model` can load a saved model.

`keras_cnns.registry` defines `build`, `MODELS` and the functions. That module is imported only when
one of these names is used, because it also reads weights, while the modules of this package read no
files.
"""

from typing import TYPE_CHECKING

# Registers the losses, optimizers and schedules with which a compiled model may be saved.
import keras_cnns.losses
import keras_cnns.optimizers  # noqa: F401
from keras_cnns.models.batch_normalization import BatchNormalization
from keras_cnns.models.cost import Cost, cost, stage_costs
from keras_cnns.models.googlenet import VARIANTS, Inception, inception_module
from keras_cnns.models.layers import IdentityShortcut, LocalResponseNormalization
from keras_cnns.models.resnet import ARCHITECTURES
from keras_cnns.models.rows import function_name
from keras_cnns.suggestions import did_you_mean

if TYPE_CHECKING:
    from keras_cnns.registry import MODELS, Builder, build

__all__ = [
    "MODELS",
    "BatchNormalization",
    "Cost",
    "IdentityShortcut",
    "Inception",
    "LocalResponseNormalization",
    "build",
    "cost",
    "inception_module",
    "stage_costs",
]
__all__ += [function_name(name, row) for name, row in (VARIANTS | ARCHITECTURES).items()]


def __getattr__(name: str) -> "Builder":
    if name in __all__:
        from keras_cnns import registry

        found: Builder = registry.FUNCTIONS.get(name) or getattr(registry, name)
        return found
    raise AttributeError(f"{__name__} has no attribute {name!r}{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
