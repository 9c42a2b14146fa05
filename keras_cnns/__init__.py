"""GoogLeNet and ResNet in Keras 3: build, train and diagnose the classic deep CNNs.

Importing this package does not import Keras; its modules import Keras when they are first used.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def load_model(path: str | Path, **options: Any) -> "keras.Model":
    """Load a saved model that contains layers, optimizers or schedules of this package.

    The function imports `keras_cnns.models`, which registers these classes, and calls
    `keras.saving.load_model`. Unlike `load_model` of Keras, it can also load models with more than
    a thousand layers.

    Args:
        path: a `.keras` file.
        options: keyword arguments of `keras.saving.load_model`, such as `compile=False`.

    Raises:
        ValueError: there is no such file, or it cannot be loaded.
    """
    import keras

    import keras_cnns.models  # noqa: F401
    from keras_cnns.models.heads import deep_recursion

    with deep_recursion():
        return keras.saving.load_model(path, **options)
