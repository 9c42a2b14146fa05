"""LARS: the learning rate of each layer is proportional to |weights| / |gradient|."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_cnns.optimizers.base import norm
from keras_cnns.optimizers.momentum import Momentum
from keras_cnns.optimizers.paths import check_patterns, check_regexes, matches_any


def trust_ratio(
    weight_norm: Any,
    gradient_norm: Any,
    *,
    weight_decay: float,
    trust_coefficient: float,
    epsilon: float,
) -> Any:
    """Return the factor of a layer's learning rate, or 1 if one of the norms is 0.

    ```
    trust_coefficient * |w| / (|g| + weight_decay * |w| + epsilon)
    ```
    """
    denominator = gradient_norm + weight_decay * weight_norm + epsilon
    ratio = trust_coefficient * weight_norm / denominator
    return ops.where(ops.logical_and(weight_norm > 0, gradient_norm > 0), ratio, 1.0)


@keras.saving.register_keras_serializable("keras_cnns")
class LARS(Momentum):
    """Momentum for very large batches: each gradient is rescaled by the norm of its weights.

    ```
    trust = trust_coefficient * |w| / (|g| + weight_decay * |w| + epsilon)     `trust_ratio`
    v <- momentum * v - learning_rate * trust * (g + weight_decay * w)
    w <- w + v
    ```

    The norm of the step is a fixed fraction of the norm of the layer's weights, and does not depend
    on the norm of the gradient. If |w| or |g| is 0, trust is 1. By default, biases and the
    parameters of normalisation layers are not adapted and not decayed, because their norms carry no
    information. With `decoupled_weight_decay`, trust is computed without the decay.

    State: as in `Momentum`.

    >>> optimizer = LARS(learning_rate=1.0, momentum=0.0, trust_coefficient=0.1)
    >>> weight = keras.Variable([3.0, 4.0])
    >>> _ = optimizer.apply([keras.ops.convert_to_tensor([0.0, 1000.0])], [weight])
    >>> weight.numpy().round(4).tolist()
    [3.0, 3.5]

    Args:
        learning_rate: at least 0; a float, a `LearningRateSchedule` or a callable. It must be
            larger than the learning rate of a training without LARS, by a factor of about |g| /
            (trust_coefficient * |w|).
        momentum: as in `Momentum`.
        nesterov: as in `Momentum`.
        dampening: as in `Momentum`.
        weight_decay: as in `Momentum`.
        decoupled_weight_decay: as in `Momentum`.
        trust_coefficient: norm of a step at learning rate 1, as a fraction of the norm of the
            weights; above 0.
        epsilon: a constant in the denominator of trust, at least 0.
        exclude_from_weight_decay: as in `Momentum`; by default biases and normalisation layers.
        exclude_from_layer_adaptation: patterns of variables whose trust is 1.
        learning_rate_multipliers: as in `Momentum`.
        learning_rate_in_velocity: as in `Momentum`; by default True, as in the paper.
        momentum_correction: as in `Momentum`.
        name: the optimizer's name.
        kwargs: clipping, averaging, accumulation and loss scaling, as in every Keras optimizer.

    Raises:
        ValueError: an argument is out of its range.

    References:
        You, Gitman and Ginsburg 2017, Large batch training of convolutional networks
        (arXiv:1708.03888), algorithm 1.
    """

    def __init__(
        self,
        learning_rate: Any = 1.0,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float | None = None,
        *,
        dampening: float = 0.0,
        decoupled_weight_decay: bool = False,
        trust_coefficient: float = 0.001,
        epsilon: float = 1e-9,
        exclude_from_weight_decay: Sequence[str] = ("norm_and_bias",),
        exclude_from_layer_adaptation: Sequence[str] = ("norm_and_bias",),
        learning_rate_multipliers: Mapping[str, float] | None = None,
        learning_rate_in_velocity: bool = True,
        momentum_correction: bool = False,
        name: str = "lars",
        **kwargs: Any,
    ) -> None:
        if not trust_coefficient > 0:
            raise ValueError(f"trust_coefficient is {trust_coefficient}; it must be above 0")
        if not epsilon >= 0:
            raise ValueError(f"epsilon is {epsilon}; it must be at least 0")
        super().__init__(
            learning_rate,
            momentum,
            nesterov,
            dampening,
            weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            exclude_from_weight_decay=exclude_from_weight_decay,
            learning_rate_multipliers=learning_rate_multipliers,
            learning_rate_in_velocity=learning_rate_in_velocity,
            momentum_correction=momentum_correction,
            name=name,
            **kwargs,
        )
        self.trust_coefficient = float(trust_coefficient)
        self.epsilon = float(epsilon)
        self._unadapted = check_regexes(
            exclude_from_layer_adaptation, "exclude_from_layer_adaptation"
        )

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for these variables."""
        check_patterns(self._unadapted, variables, "exclude_from_layer_adaptation")
        super().build(variables)

    def _adapt(self, decayed: Any, gradient: Any, variable: Any) -> Any:
        if matches_any(self._unadapted, self._model_variable(variable)):
            return decayed
        is_coupled = self._use_weight_decay(variable) and not self.decoupled_weight_decay
        trust = trust_ratio(
            norm(variable),
            norm(gradient),
            weight_decay=(self.weight_decay or 0.0) * is_coupled,
            trust_coefficient=self.trust_coefficient,
            epsilon=self.epsilon,
        )
        return ops.cast(trust, variable.dtype) * decayed

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        return {
            **super().get_config(),
            "trust_coefficient": self.trust_coefficient,
            "epsilon": self.epsilon,
            "exclude_from_layer_adaptation": list(self._unadapted),
        }
