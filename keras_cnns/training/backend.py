"""Compile and differentiate functions of tensors on each of Keras' backends."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

_TRAINING = ("tensorflow", "jax", "torch")


def check_backend() -> None:
    """Raise ValueError if Keras' backend cannot train."""
    backend = keras.backend.backend()
    if backend not in _TRAINING:
        raise ValueError(
            f"Keras runs on {backend}, which cannot train; set KERAS_BACKEND to "
            f"{', '.join(_TRAINING[:-1])} or {_TRAINING[-1]}"
        )


def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors for the backend; on torch, return it unchanged."""
    result: Callable[..., Any] = function
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        result = tf.function(function, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        result = jax.jit(function)
    return result


def compute_gradients(
    loss: Callable[[Sequence[Any]], tuple[Any, list[Any]]], values: Sequence[Any]
) -> tuple[Sequence[Any], list[Any]]:
    """Return the gradients of a loss with respect to values, and the loss's auxiliary outputs.

    Args:
        loss: a function of the values that returns the loss, a scalar, and a list of auxiliary
            tensors.
        values: tensors; a tensor on which the loss does not depend has a gradient of zeros.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(values)
            value, outputs = loss(values)
        unconnected = tf.UnconnectedGradients.ZERO
        return tape.gradient(value, values, unconnected_gradients=unconnected), outputs
    if backend == "jax":
        import jax

        gradients, outputs = jax.grad(loss, has_aux=True)(values)
        return gradients, outputs
    import torch

    leaves = [value.detach().requires_grad_() for value in values]
    # The state of torch's generator must not change, because dropout and shuffling use it too.
    with torch.random.fork_rng(), torch.enable_grad():
        value, outputs = loss(leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ], [output.detach() for output in outputs]
