"""Gradient descent with momentum: heavy ball (Polyak 1964) and Nesterov (Sutskever et al. 2013)."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_cnns.optimizers.base import PathOptimizer
from keras_cnns.optimizers.fused import fused_momentum_step


def momentum_step(
    weight: Any,
    velocity: Any,
    gradient: Any,
    *,
    learning_rate: Any,
    momentum: float,
    dampening: Any = 0.0,
    nesterov: bool = False,
    learning_rate_in_velocity: bool = False,
    correction: Any = 1.0,
) -> tuple[Any, Any]:
    """Return the weight and the velocity after one step; the arguments are scalars or tensors.

    ```
    v <- momentum * v + (1 - dampening) * g                    learning rate outside the velocity
    w <- w - learning_rate * v                                    heavy ball
    w <- w - learning_rate * (g + momentum * v)                   nesterov

    v <- momentum * correction * v                             learning rate inside the velocity
         - learning_rate * (1 - dampening) * g
    w <- w + v                                                    heavy ball
    w <- w - learning_rate * g + momentum * v                     nesterov
    ```
    """
    damped = (1 - dampening) * gradient
    if learning_rate_in_velocity:
        velocity = momentum * correction * velocity - learning_rate * damped
        step = momentum * velocity - learning_rate * gradient if nesterov else velocity
        return weight + step, velocity
    velocity = momentum * velocity + damped
    step = gradient + momentum * velocity if nesterov else velocity
    return weight - learning_rate * step, velocity


@keras.saving.register_keras_serializable("keras_cnns")
class Momentum(PathOptimizer):
    """Gradient descent with momentum; the arithmetic is `momentum_step`.

    ```
    v <- momentum * v + (g + weight_decay * w)
    w <- w - learning_rate * v
    ```

    The velocity v is a decaying sum of gradients. By default the learning rate is outside the
    velocity, as in torch and TensorFlow 1, and a new learning rate takes effect immediately. In
    Keras' SGD and Caffe, the learning rate is inside the velocity. There, a former learning rate
    still has an effect for about 1 / (1 - momentum) steps. If the velocity is rescaled at each
    change of the learning rate (Goyal et al. 2017, section 2.1), both forms are equal.

    Weight decay is coupled by default, as in the papers of these networks: it is added to the
    gradient and so to the velocity. Keras' SGD decouples weight decay, which at momentum 0.9 makes
    it about ten times weaker.

    >>> optimizer = Momentum(learning_rate=0.1)
    >>> weight = keras.Variable([0.0])
    >>> _ = optimizer.apply([keras.ops.ones(1)], [weight])
    >>> _ = optimizer.apply([keras.ops.ones(1)], [weight])
    >>> [round(x.numpy().item(), 4) for x in (weight, optimizer.velocities[0])]
    [-0.29, 1.9]

    The state consists of `iterations` and `velocities`. The velocities have the shapes of the
    weights, are initially 0, and do not exist if `momentum` is 0. With `momentum_correction`, the
    state also contains the previous learning rate. The state is saved by variable path. If a state
    does not fit, `load_own_variables` does not load it, and warns or, with `strict`, raises an
    error.

    On TensorFlow a step is one kernel for each weight (`fused_momentum_step`). Sparse gradients are
    converted to dense gradients, because with momentum every row changes in every step.

    Args:
        learning_rate: at least 0; a float, a `LearningRateSchedule` or a callable.
        momentum: fraction of the velocity that is kept in each step, from 0 to below 1.
        nesterov: use Nesterov's momentum (Sutskever et al. 2013).
        dampening: fraction of the gradient that is not added to the velocity, from 0 to below 1; it
            applies from the second step on.
        weight_decay: weight decay per step, at least 0; None for no decay.
        decoupled_weight_decay: multiply the weights by `1 - learning_rate * weight_decay`
            (Loshchilov and Hutter 2019) instead of adding the decay to the gradient.
        exclude_from_weight_decay: regular expressions, searched in `variable.path`; or the word
            "norm_and_bias", which selects all biases, and the scales and offsets of normalisation
            layers.
        learning_rate_multipliers: regular expression or "norm_and_bias" -> factor of the learning
            rate; if several match, the factors are multiplied. Caffe's models use `{"bias": 2.0}`.
        learning_rate_in_velocity: keep the learning rate inside the velocity.
        momentum_correction: with `learning_rate_in_velocity`, rescale the velocity when the
            learning rate changes. After a learning rate of 0, as in the first step of a warmup, the
            ratio of the new to the old learning rate is undefined, and nothing is rescaled.
        name: the optimizer's name.
        kwargs: clipping, averaging, accumulation and loss scaling, as in every Keras optimizer.

    Raises:
        ValueError: an argument is out of range, or two arguments contradict each other.

    References:
        Polyak 1964, Some methods of speeding up the convergence of iteration methods.
        Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.
        Goyal et al. 2017, Accurate, large minibatch SGD (arXiv:1706.02677).
        Loshchilov and Hutter 2019, Decoupled weight decay regularization (arXiv:1711.05101).
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        dampening: float = 0.0,
        weight_decay: float | None = None,
        *,
        decoupled_weight_decay: bool = False,
        exclude_from_weight_decay: Sequence[str] = (),
        learning_rate_multipliers: Mapping[str, float] | None = None,
        learning_rate_in_velocity: bool = False,
        momentum_correction: bool = False,
        name: str = "momentum",
        **kwargs: Any,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it must be at least 0 and below 1")
        if not 0 <= dampening < 1:
            raise ValueError(f"dampening is {dampening}; it must be at least 0 and below 1")
        if dampening and (nesterov or not momentum):
            raise ValueError("dampening needs a momentum above 0, and nesterov=False, as in torch")
        if momentum_correction and not learning_rate_in_velocity:
            raise ValueError(
                "momentum_correction needs learning_rate_in_velocity=True; "
                "a velocity without the learning rate needs no correction"
            )
        super().__init__(
            learning_rate,
            weight_decay,
            decoupled_weight_decay,
            exclude_from_weight_decay,
            learning_rate_multipliers,
            name,
            **kwargs,
        )
        self.momentum = float(momentum)
        self.nesterov = bool(nesterov)
        self.dampening = float(dampening)
        self.learning_rate_in_velocity = bool(learning_rate_in_velocity)
        self.momentum_correction = bool(momentum_correction)

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for these variables: a velocity of zeros for each."""
        if self.built:
            return
        super().build(variables)
        self.velocities = []
        if self.momentum:
            self.velocities = self.add_optimizer_variables(variables, "velocity")
        if self.momentum_correction:
            self.previous_learning_rate = self.add_variable(
                shape=(), aggregation="only_first_replica", name="previous_learning_rate"
            )

    def _descend(
        self, gradient: Any, variable: Any, learning_rate: Any, base_learning_rate: Any
    ) -> None:
        velocity = self.velocities[self._get_variable_index(variable)] if self.momentum else None
        dampening = self._dampening(variable)
        correction = self._correction(base_learning_rate, variable)
        # TensorFlow's kernels have one momentum for the velocity and for Nesterov's look-ahead.
        has_kernel = not (self.nesterov and self.momentum_correction)
        if keras.backend.backend() == "tensorflow" and has_kernel:
            fused_momentum_step(
                variable.value if isinstance(variable, keras.Variable) else variable,
                None if velocity is None else velocity.value,
                (1 - dampening) * gradient if self.dampening else gradient,
                learning_rate=learning_rate,
                momentum=self.momentum * correction,
                nesterov=self.nesterov,
                learning_rate_in_velocity=self.learning_rate_in_velocity,
            )
            return
        new_weight, new_velocity = momentum_step(
            ops.convert_to_tensor(variable),
            0.0 if velocity is None else ops.convert_to_tensor(velocity),
            gradient,
            learning_rate=learning_rate,
            momentum=self.momentum,
            dampening=dampening,
            nesterov=self.nesterov,
            learning_rate_in_velocity=self.learning_rate_in_velocity,
            correction=correction,
        )
        if velocity is not None:
            self.assign(velocity, new_velocity)
        self.assign(variable, new_weight)

    def _dampening(self, variable: Any) -> Any:
        """Return the dampening; 0 in the first step, which adds the whole gradient, as in torch."""
        if not self.dampening:
            return 0.0
        return ops.cast(ops.where(self.iterations == 0, 0.0, self.dampening), variable.dtype)

    def _correction(self, learning_rate: Any, variable: Any) -> Any:
        """Return learning_rate / previous_learning_rate, or 1 if the denominator is 0."""
        if not self.momentum_correction:
            return 1.0
        previous = ops.convert_to_tensor(self.previous_learning_rate)
        ratio = ops.cast(learning_rate, previous.dtype) / ops.where(previous > 0, previous, 1.0)
        return ops.cast(ops.where(previous > 0, ratio, 1.0), variable.dtype)

    def finish_step(self, learning_rate: Any, is_due: Any = True) -> None:
        """Store the learning rate for the correction in the next step."""
        if self.momentum_correction:
            previous = self.previous_learning_rate
            new = ops.cast(learning_rate, previous.dtype)
            previous.assign(new if is_due is True else ops.where(is_due, new, previous))

    def _slots(self) -> dict[str, Sequence[keras.Variable | None]]:
        return {**super()._slots(), **({"velocity": self.velocities} if self.momentum else {})}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        config = {
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "dampening": self.dampening,
            "learning_rate_in_velocity": self.learning_rate_in_velocity,
            "momentum_correction": self.momentum_correction,
        }
        return {**super().get_config(), **config}
