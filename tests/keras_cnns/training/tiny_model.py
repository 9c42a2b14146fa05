"""A model of about 200 weights, for tests that keep a whole run directory."""

from typing import Any

import keras
import pytest

from keras_cnns.models import BatchNormalization
from keras_cnns.training import model

NAME = "tiny"


def build_tiny(
    input_shape: tuple[int, int, int] = (32, 32, 1),
    classes: int = 10,
    input_tensor: Any = None,
    aux_heads: bool = False,
    **variations: Any,  # those of a recipe, which this model does not have
) -> keras.Model:
    """[N, H, W, C] -> probabilities [N, K]: one convolution, batch norm, ReLU, a classifier.

    With `aux_heads`, the outputs are those of two classifiers, `main` and `aux1`.
    """
    images = keras.Input(input_shape) if input_tensor is None else input_tensor
    x = keras.layers.Conv2D(8, 3, strides=4, use_bias=False, name="stem_conv")(images)
    x = BatchNormalization(name="stem_bn")(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    main = keras.layers.Dense(classes, activation="softmax", name="logits")(x)
    outputs = main
    if aux_heads:
        aux = keras.layers.Dense(classes, activation="softmax", name="aux1_logits")(x)
        outputs = {"main": main, "aux1": aux}
    return keras.Model(keras.utils.get_source_inputs(main), outputs, name=NAME)


def register(patch: pytest.MonkeyPatch) -> None:
    """Let trainings build this model, whatever name their recipes have."""
    patch.setattr(model, "build", lambda name, **options: build_tiny(**options))
