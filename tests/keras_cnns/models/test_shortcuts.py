"""The lecture's equations for a block of two layers, computed by hand.

a^l = f(z^l + a^(l-2)) and a^l = f(z^l + W a^(l-2)), where f is ReLU. On a map of one pixel only the
middle of a 3x3 kernel acts: with normalisations that are the identity, z = V relu(U a).
"""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.models import build
from keras_cnns.models.resnet import (
    ARCHITECTURES,
    basic_block,
    bottleneck_block,
    preactivation_basic_block,
    preactivation_bottleneck_block,
)
from keras_cnns.models.shortcuts import OPTIONS, SHORTCUTS

U = np.array([[1.0, -2.0], [0.5, 1.0]])  # [in, out]
V = np.array([[2.0, -1.0], [1.0, 3.0]])
W = np.array([[0.5, -1.0], [2.0, 1.5]])
A = np.array([1.0, 2.0])


def block(shortcut: str, filters: int = 2, stride: int = 1) -> keras.Model:
    """Return a block whose normalisations are the identity, so that only the matrices act."""
    inputs = keras.Input((1, 1, 2))
    row = ARCHITECTURES["resnet18"]
    outputs = basic_block(inputs, row, filters, stride, SHORTCUTS[shortcut], name="block")
    model = keras.Model(inputs, outputs)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 0.0
    matrices = {"block_conv1": U, "block_conv2": V, "block_shortcut_conv": W}
    for name, matrix in matrices.items():
        if any(layer.name == name for layer in model.layers):
            model.get_layer(name).set_weights([around(matrix, model.get_layer(name))])
    return model


def around(matrix: np.ndarray, layer: keras.layers.Layer) -> np.ndarray:
    """Return a kernel of the layer's window: the matrix in its middle, and zeros elsewhere."""
    kernel = np.zeros(layer.kernel.shape, "float32")
    kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = matrix
    return kernel


def middle(gradient: Any) -> np.ndarray:
    """Return the gradient of the matrix in the middle of a kernel."""
    kernel = np.asarray(gradient)
    found: np.ndarray = kernel[kernel.shape[0] // 2, kernel.shape[1] // 2]
    return found


def evaluate(model: keras.Model) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the block's output, and the gradients of its sum by name; `a` is the input's."""
    a = tf.constant(A.reshape(1, 1, 1, 2), "float32")
    with tf.GradientTape() as tape:
        tape.watch(a)
        output = model(a, training=False)
        total = tf.reduce_sum(output)
    kernels = {layer.name: layer.kernel.value for layer in model.layers if hasattr(layer, "kernel")}
    gradients = tape.gradient(total, {"a": a, **kernels})
    found = {name: middle(value) for name, value in gradients.items() if name != "a"}
    return np.ravel(output), {"a": np.ravel(gradients["a"]), **found}


def test_identity_skip_by_hand() -> None:
    # U a = (2, 0); relu keeps 2 and, at 0, passes no gradient. Z = V^T (2, 0) = (4, -2).
    # Z + a = (5, 0): f keeps 5, and at 0 passes no gradient.
    output, gradients = evaluate(block("identity"))
    np.testing.assert_allclose(output, [5.0, 0.0])
    open_f = np.array([1.0, 0.0])
    through_block = U @ (np.array([1.0, 0.0]) * (V @ open_f))  # (2, 1)
    np.testing.assert_allclose(through_block, [2.0, 1.0])
    np.testing.assert_allclose(gradients["a"], through_block + open_f)  # both paths
    np.testing.assert_allclose(gradients["block_conv2"], np.outer([2.0, 0.0], open_f))
    assert set(gradients) == {"a", "block_conv1", "block_conv2"}  # the skip has nothing to update


def test_projection_skip_by_hand() -> None:
    # W^T a = (0.5 + 4, -1 + 3) = (4.5, 2); Z + W^T a = (8.5, 0): at 0 no gradient passes.
    output, gradients = evaluate(block("projection_everywhere"))
    np.testing.assert_allclose(output, [8.5, 0.0])
    open_f = np.array([1.0, 0.0])
    np.testing.assert_allclose(gradients["a"], np.array([2.0, 1.0]) + W @ open_f)
    np.testing.assert_allclose(gradients["block_shortcut_conv"], np.outer(A, open_f))  # W learns


def test_the_identity_carries_the_gradient_past_a_dead_block() -> None:
    """With Z cut off, the gradient of a plain block vanishes; that of a residual block does not."""
    for shortcut, expected in (("identity", np.ones(2)), ("none", np.zeros(2))):
        model = block(shortcut)
        model.get_layer("block_conv2").set_weights([np.zeros((3, 3, 2, 2))])
        np.testing.assert_array_equal(evaluate(model)[1]["a"], expected)


@pytest.mark.parametrize(
    ("shortcut", "expected"),
    [
        ("none", [4.0, 0.0]),
        ("constant_scaling", [2.5, 0.0]),
        ("exclusive_gating", [0.5 * 4 + 0.5 * 1, 0.0]),
        ("shortcut_only_gating", [4 + 0.5 * 1, 0.0]),
        ("dropout", [5.0, 0.0]),  # nothing is dropped outside of training
    ],
)
def test_the_preactivation_papers_shortcuts(shortcut: str, expected: list[float]) -> None:
    model = block(shortcut)
    for layer in model.layers:
        if layer.name == "block_gate_conv":  # a gate half open: sigmoid(0)
            layer.set_weights([np.zeros((1, 1, 2, 2)), np.zeros(2)])
    np.testing.assert_allclose(evaluate(model)[0], expected, rtol=1e-6)


def test_gates_begin_nearly_closed() -> None:
    gate = block("exclusive_gating").get_layer("block_gate_conv")
    np.testing.assert_array_equal(gate.bias, [-6.0, -6.0])


@pytest.mark.parametrize(
    "make",
    [
        basic_block,
        bottleneck_block,
        preactivation_basic_block,
        preactivation_bottleneck_block,
    ],
)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_shortcut_fits_every_change_of_shape(make: Any, shortcut: str) -> None:
    row = ARCHITECTURES["resnet50"]
    for channels, filters, stride in ((4, 4, 1), (4, 8, 2), (4, 8, 1)):
        inputs = keras.Input((6, 6, channels))
        output = make(inputs, row, filters, stride, SHORTCUTS[shortcut], name="block")
        assert output.shape == (None, 6 // stride, 6 // stride, filters)


@pytest.mark.parametrize(
    ("shortcut", "parameters"),
    [
        ("A", 269_722),
        ("B", 269_722 + 2_752),
        ("C", 283_962),
        ("identity", 269_722),
        ("none", 269_722),
        ("constant_scaling", 269_722),
        ("dropout", 269_722),
    ],
)
def test_options_of_resnet20_have_the_papers_sizes(shortcut: str, parameters: int) -> None:
    model = build("resnet20", shortcut=shortcut)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == parameters


def test_an_unknown_shortcut_names_those_there_are() -> None:
    with pytest.raises(
        ValueError, match="shortcut is 'skip'; it must be one of identity, projection"
    ):
        build("resnet20", shortcut="skip")
    assert set(OPTIONS.values()) < set(SHORTCUTS)
