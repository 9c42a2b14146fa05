"""LARS: each layer's learning rate in proportion to its weights, for very large batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_cnns.optimizers.base import norm
from keras_cnns.optimizers.momentum import Momentum
from keras_cnns.optimizers.paths import check_patterns, check_regexes, matches


@keras.saving.register_keras_serializable("keras_cnns")
class LARS(Momentum):
    """Momentum on gradients that are rescaled to the norm of their weights.

    ```
    trust = trust_coefficient * |w| / (|g| + weight_decay * |w| + epsilon)
    v <- momentum * v - learning_rate * trust * (g + weight_decay * w)
    w <- w + v
    ```

    The step is a fixed fraction of the norm of the layer's weights, whatever the norm of its
    gradient. Where |w| or |g| is 0, trust is 1. Biases and the parameters of normalisation layers,
    whose norms carry no information, have neither trust nor decay. With
    `decoupled_weight_decay` the decay is not a part of the gradient, and so not of trust.

    >>> optimizer = LARS(learning_rate=1.0, momentum=0.0, trust_coefficient=0.1)
    >>> weight = keras.Variable([3.0, 4.0])
    >>> _ = optimizer.apply([keras.ops.convert_to_tensor([0.0, 1000.0])], [weight])
    >>> weight.numpy().round(4).tolist()
    [3.0, 3.5]

    Args:
        learning_rate: at least 0; a float, a `LearningRateSchedule` or a callable. Larger than
            without LARS, by about |g| / (trust_coefficient * |w|).
        momentum: fraction of the velocity that a step keeps, 0 to 1 (1 excluded).
        nesterov: look ahead along the velocity before the step.
        dampening: as in `Momentum`.
        weight_decay: per step, at least 0; None for none.
        decoupled_weight_decay: as in `Momentum`.
        trust_coefficient: fraction of its norm that a weight moves at learning rate 1, above 0.
        epsilon: at least 0.
        exclude_from_weight_decay: as in `Momentum`.
        exclude_from_layer_adaptation: patterns of variables whose trust is 1.
        learning_rate_multipliers: as in `Momentum`.
        learning_rate_in_velocity: as in `Momentum`; the paper has it inside.
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
        """Make a velocity of zeros for each variable."""
        check_patterns(self._unadapted, variables, "exclude_from_layer_adaptation")
        super().build(variables)

    def _decay(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        decayed = super()._decay(gradient, variable, learning_rate)
        known = self._model_variable(variable)
        if any(matches(pattern, known) for pattern in self._unadapted):
            return decayed
        is_coupled = self._use_weight_decay(variable) and not self.decoupled_weight_decay
        weight_decay = (self.weight_decay or 0.0) * is_coupled
        w, g = norm(variable), norm(gradient)
        trust = self.trust_coefficient * w / (g + weight_decay * w + self.epsilon)
        trust = ops.where(ops.logical_and(w > 0, g > 0), trust, 1.0)
        return ops.cast(trust, variable.dtype) * decayed

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        return {
            **super().get_config(),
            "trust_coefficient": self.trust_coefficient,
            "epsilon": self.epsilon,
            "exclude_from_layer_adaptation": list(self._unadapted),
        }
