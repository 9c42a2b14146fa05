"""Shortcuts: the term that a residual block adds to the output z of its convolutions.

Options A, B and C are those of He et al. 2015, section 3.3. The others are the ablations of He et
al. 2016, "Identity Mappings in Deep Residual Networks", section 3.1, table 1. In a block that
changes the shape, these ablations use the identity of option A.

Each function takes the block's input `x` [N, H, W, C], the output `z` [N, H/stride, W/stride, K] of
its convolutions, and `name`, the prefix of its layers' names. It returns the sum of z and the
shortcut. `activated` is relu(bn(x)) in a block that normalises before its convolutions, and None in
other blocks. If `activated` is given, a projection is applied to `activated` instead of x, and no
normalisation follows the projection, as in the paper's code.
"""

from collections.abc import Callable

import keras
from keras import KerasTensor

from keras_cnns.models import layers
from keras_cnns.models.dropout import Dropout


def _add(*terms: KerasTensor, name: str) -> KerasTensor:
    return keras.layers.Add(name=f"{name}_add")(list(terms))


def _identity(x: KerasTensor, z: KerasTensor, stride: int, *, name: str) -> KerasTensor:
    """Return x in the shape of z: every `stride`-th pixel, with zeros in the new channels."""
    filters = z.shape[-1]
    if (x.shape[-1], stride) == (filters, 1):
        return x
    return layers.IdentityShortcut(filters, stride, name=f"{name}_shortcut")(x)


def _gate(x: KerasTensor, z: KerasTensor, stride: int, *, name: str) -> KerasTensor:
    """Return g(x) = sigmoid(W x + b) in the shape of z; initially b = -6, so that g is near 0."""
    x = layers.conv(
        x,
        z.shape[-1],
        1,
        stride=stride,
        use_bias=True,
        bias_initializer=keras.initializers.Constant(-6.0),
        name=f"{name}_gate_conv",
    )
    return keras.layers.Activation("sigmoid", name=f"{name}_gate")(x)


def _add_identity(
    x: KerasTensor, z: KerasTensor, stride: int, *, activated: KerasTensor | None = None, name: str
) -> KerasTensor:
    """Return z + x: the shortcut has no weights (option A)."""
    return _add(z, _identity(x, z, stride, name=name), name=name)


def _add_projection_everywhere(
    x: KerasTensor, z: KerasTensor, stride: int, *, activated: KerasTensor | None = None, name: str
) -> KerasTensor:
    """Return z + W x in every block, where W is a 1x1 convolution (option C)."""
    source = x if activated is None else activated
    path = layers.conv(source, z.shape[-1], 1, stride=stride, name=f"{name}_shortcut_conv")
    if activated is None:
        path = layers.batch_norm(path, name=f"{name}_shortcut_bn")
    return _add(z, path, name=name)


def _add_projection(
    x: KerasTensor, z: KerasTensor, stride: int, *, activated: KerasTensor | None = None, name: str
) -> KerasTensor:
    """Return z + W x in a block that changes the number of channels, else z + x (option B)."""
    add = _add_identity if x.shape[-1] == z.shape[-1] else _add_projection_everywhere
    return add(x, z, stride, activated=activated, name=name)


def _add_scaled(
    x: KerasTensor, z: KerasTensor, stride: int, *, activated: KerasTensor | None = None, name: str
) -> KerasTensor:
    """Return 0.5 z + 0.5 x (constant scaling)."""
    path = _identity(x, z, stride, name=name)
    path = keras.layers.Rescaling(0.5, name=f"{name}_shortcut_scale")(path)
    return _add(keras.layers.Rescaling(0.5, name=f"{name}_scale")(z), path, name=name)


def _add_exclusively_gated(
    x: KerasTensor, z: KerasTensor, stride: int, *, activated: KerasTensor | None = None, name: str
) -> KerasTensor:
    """Return g z + (1 - g) x (exclusive gating), computed as x + g (z - x)."""
    path = _identity(x, z, stride, name=name)
    difference = keras.layers.Subtract(name=f"{name}_difference")([z, path])
    gate = _gate(x, z, stride, name=name)
    return _add(path, keras.layers.Multiply(name=f"{name}_gated")([gate, difference]), name=name)


def _add_gated_shortcut(
    x: KerasTensor, z: KerasTensor, stride: int, *, activated: KerasTensor | None = None, name: str
) -> KerasTensor:
    """Return z + (1 - g) x (shortcut-only gating), computed as z + x - g x."""
    path = _identity(x, z, stride, name=name)
    gate = _gate(x, z, stride, name=name)
    gated = keras.layers.Multiply(name=f"{name}_gated")([gate, path])
    return _add(z, keras.layers.Subtract(name=f"{name}_open")([path, gated]), name=name)


def _add_dropped(
    x: KerasTensor, z: KerasTensor, stride: int, *, activated: KerasTensor | None = None, name: str
) -> KerasTensor:
    """Return z + dropout(x) with a dropout rate of 0.5 (dropout shortcut)."""
    path = _identity(x, z, stride, name=name)
    return _add(z, Dropout(0.5, name=f"{name}_shortcut_dropout")(path), name=name)


def _add_nothing(
    x: KerasTensor, z: KerasTensor, stride: int, *, activated: KerasTensor | None = None, name: str
) -> KerasTensor:
    """Return z: a plain network has no shortcuts (He et al. 2015, section 3.3)."""
    return z


Shortcut = Callable[..., KerasTensor]
SHORTCUTS: dict[str, Shortcut] = {
    "identity": _add_identity,
    "projection": _add_projection,
    "projection_everywhere": _add_projection_everywhere,
    "constant_scaling": _add_scaled,
    "exclusive_gating": _add_exclusively_gated,
    "shortcut_only_gating": _add_gated_shortcut,
    "dropout": _add_dropped,
    "none": _add_nothing,
}
OPTIONS = {"A": "identity", "B": "projection", "C": "projection_everywhere"}  # the paper's letters


def find_shortcut(name: str) -> Shortcut:
    """Return the function for a key of SHORTCUTS, or for one of the paper's letters A, B and C.

    Raises:
        ValueError: there is no such shortcut.
    """
    key = OPTIONS.get(name, name)
    if key not in SHORTCUTS:
        raise ValueError(
            f"shortcut is {name!r}; it must be one of {', '.join(SHORTCUTS)}, or one of the "
            "paper's letters A, B and C"
        )
    return SHORTCUTS[key]
