"""Gradient descent with momentum: heavy ball (Polyak 1964) and Nesterov (Sutskever et al. 2013)."""

from typing import Any

import keras
from keras import ops


def momentum_step(
    weight: Any,
    velocity: Any,
    gradient: Any,
    *,
    learning_rate: Any,
    momentum: float,
    nesterov: bool,
) -> tuple[Any, Any]:
    """Return the new weight and velocity.

    ```
    v <- momentum * v + g
    w <- w - learning_rate * v                    heavy ball
    w <- w - learning_rate * (g + momentum * v)   nesterov
    ```
    """
    velocity = momentum * velocity + gradient
    step = gradient + momentum * velocity if nesterov else velocity
    return weight - learning_rate * step, velocity


@keras.saving.register_keras_serializable("keras_cnns")
class Momentum(keras.optimizers.Optimizer):
    """Gradient descent that remembers where it was going; the arithmetic is `momentum_step`.

    The velocity is a decaying sum of gradients, and the learning rate stands outside of it, as in
    torch and in the papers' own code: a change of the rate is felt at once. Keras' SGD keeps the
    rate inside, where an old rate lives on for some 1 / (1 - momentum) steps.

    Weight decay is coupled (He et al. 2015): it is part of the gradient, and so of the velocity.

    >>> optimizer = Momentum(learning_rate=0.1)
    >>> weight = keras.Variable([0.0])
    >>> _ = optimizer.apply([keras.ops.ones(1)], [weight])
    >>> _ = optimizer.apply([keras.ops.ones(1)], [weight])
    >>> [round(float(x[0]), 4) for x in (weight, optimizer.velocities[0])]
    [-0.29, 1.9]

    Args:
        learning_rate: above 0; a float, a `LearningRateSchedule` or a callable.
        momentum: share of the velocity that a step keeps, 0 to 1 (1 excluded).
        nesterov: look ahead along the velocity before the step.
        weight_decay: per step, at least 0; None for none.
        name: the optimizer's name.
        kwargs: clipping, averaging, accumulation and loss scaling, as every Keras optimizer takes.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float | None = None,
        name: str = "momentum",
        **kwargs: Any,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it must be at least 0 and below 1")
        if weight_decay is not None and weight_decay < 0:
            raise ValueError(f"weight_decay is {weight_decay}; it must be at least 0")
        if isinstance(learning_rate, int | float) and learning_rate <= 0:
            raise ValueError(f"learning_rate is {learning_rate}; it must be above 0")
        if isinstance(learning_rate, int):
            learning_rate = float(learning_rate)
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )
        self.momentum = float(momentum)
        self.nesterov = bool(nesterov)

    def build(self, variables: list[keras.Variable]) -> None:
        """Make a velocity of zeros for each variable."""
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Apply `momentum_step` to one variable; on TensorFlow by its fused kernel."""
        velocity = self.velocities[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        if self.weight_decay and self._use_weight_decay(variable):
            gradient = gradient + self.weight_decay * ops.convert_to_tensor(variable)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle,
                accum=velocity.value.handle,
                lr=learning_rate,
                grad=gradient,
                momentum=tf.cast(self.momentum, variable.dtype),
                use_nesterov=self.nesterov,
            )
            return
        weight, new_velocity = momentum_step(
            ops.convert_to_tensor(variable),
            ops.convert_to_tensor(velocity),
            gradient,
            learning_rate=learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
        self.assign(velocity, new_velocity)
        self.assign(variable, weight)

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Do nothing: `update_step` decays within the velocity, Keras would do it beside."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        config = {"momentum": self.momentum, "nesterov": self.nesterov}
        return {**super().get_config(), **config}
