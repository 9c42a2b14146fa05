"""`momentum_step` as one in-place TensorFlow kernel for each variable."""

from typing import Any


def fused_momentum_step(
    variable: Any,
    velocity: Any,
    gradient: Any,
    *,
    learning_rate: Any,
    momentum: Any,
    nesterov: bool,
    learning_rate_in_velocity: bool,
) -> None:
    """Update a `tf.Variable` and its velocity in place; without a velocity, only the variable."""
    import tensorflow as tf

    if velocity is None:
        tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.handle, alpha=learning_rate, delta=gradient
        )
        return
    kernel = (
        tf.raw_ops.ResourceApplyKerasMomentum
        if learning_rate_in_velocity
        else tf.raw_ops.ResourceApplyMomentum
    )
    kernel(
        var=variable.handle,
        accum=velocity.handle,
        lr=learning_rate,
        grad=gradient,
        momentum=tf.cast(momentum, variable.dtype),
        use_nesterov=nesterov,
    )
