"""The base class of the optimizers, with options and state keyed by variable path."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_cnns.optimizers.paths import (
    check_patterns,
    check_regexes,
    matches,
    matches_any,
    path_of,
)
from keras_cnns.optimizers.state import load_state, save_state


def _dense(gradient: Any) -> Any:
    """Return a gradient as a dense tensor; sparse rows with equal indices are summed."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)
    return ops.convert_to_tensor(gradient, sparse=False)


def norm(x: Any) -> Any:
    """Return the Euclidean norm of a tensor of any shape, as a scalar in float32 (or float64)."""
    x = ops.convert_to_tensor(x)
    if ops.dtype(x) not in ("float32", "float64"):
        x = ops.cast(x, "float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.sqrt(2 * tf.nn.l2_loss(x))  # one pass, which needs no tensor of squares
    return ops.sqrt(ops.sum(ops.square(x)))


class PathOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer whose options and state are keyed by variable path.

    A step for one variable is a sequence of hooks. Subclasses implement `_descend`, may override
    the other hooks, and list their state in `_slots`.

    ```
    decayed  = _decay(gradient, variable, learning_rate)     adds weight decay
    adapted  = _adapt(decayed, gradient, variable)           rescales to the layer (LARS)
    _descend(adapted, variable, learning_rate)               writes the state and the variable
    ```

    Args:
        learning_rate: at least 0; a float, a `LearningRateSchedule` or a callable.
        weight_decay: weight decay per step, at least 0; None for no decay.
        decoupled_weight_decay: decay the weights directly instead of through the gradient.
        exclude_from_weight_decay: patterns of variables that do not decay.
        learning_rate_multipliers: pattern -> factor; if several patterns match, the factors are
            multiplied.
        name: the optimizer's name.
        kwargs: the arguments of every Keras optimizer: clipping, averages, accumulation, ...

    Raises:
        ValueError: an argument is outside its range, or a pattern is not a regular expression.
    """

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float | None = None,
        decoupled_weight_decay: bool = False,
        exclude_from_weight_decay: Sequence[str] = (),
        learning_rate_multipliers: Mapping[str, float] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(learning_rate, int | float):
            # 0 is allowed, because many schedules end at 0, and models are saved after the last
            # step.
            if not 0 <= learning_rate < math.inf:
                raise ValueError(
                    f"learning_rate is {learning_rate}; it must be at least 0 and finite"
                )
            learning_rate = float(learning_rate)
        if weight_decay is not None and not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay is {weight_decay}; it must be at least 0 and finite")
        multipliers = dict(learning_rate_multipliers or {})
        for pattern, factor in multipliers.items():
            if not 0 <= factor < math.inf:
                raise ValueError(
                    f"learning_rate_multipliers: the factor for {pattern!r} is {factor}; "
                    "it must be at least 0 and finite"
                )
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )
        self.decoupled_weight_decay = bool(decoupled_weight_decay)
        self._undecayed = check_regexes(exclude_from_weight_decay, "exclude_from_weight_decay")
        check_regexes(multipliers, "learning_rate_multipliers")
        self.learning_rate_multipliers = multipliers

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for these variables.

        Raises:
            ValueError: a pattern of an option matches no variable.
        """
        check_patterns(self._undecayed, variables, "exclude_from_weight_decay")
        check_patterns(self.learning_rate_multipliers, variables, "learning_rate_multipliers")
        super().build(variables)

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Choose the variables that weight decay leaves out; replace the previous choice.

        The method may be called before and after `build`. A step that was compiled by `fit` or by
        the first call of a `tf.function` keeps the previous choice, because the attributes of a
        Keras optimizer become constants of the compiled step. To compile the step again, call
        `model.make_train_function(force=True)`.

        Args:
            var_list: the variables themselves.
            var_names: patterns, searched in paths and names; `"norm_and_bias"` selects the scales
                and offsets of normalisation layers, and biases.

        Raises:
            ValueError: a pattern matches no variable.
        """
        exact = [f"^{re.escape(path_of(variable))}$" for variable in var_list or ()]
        patterns = exact + check_regexes(var_names or (), "exclude_from_weight_decay")
        if self.built:
            check_patterns(patterns, self._trainable_variables, "exclude_from_weight_decay")
        self._undecayed = patterns

    def _model_variable(self, variable: Any) -> Any:
        """Return the Keras variable that belongs to the `tf.Variable` that TensorFlow passes."""
        return self._trainable_variables[self._get_variable_index(variable)]

    def _use_weight_decay(self, variable: Any) -> bool:
        return not matches_any(self._undecayed, self._model_variable(variable))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable: decay, adapt, descend."""
        gradient = ops.cast(gradient, variable.dtype)
        variable_learning_rate = self._multiply_learning_rate(learning_rate, variable)
        decayed = self._decay(gradient, variable, variable_learning_rate)
        adapted = self._adapt(decayed, gradient, variable)
        self._descend(adapted, variable, variable_learning_rate, learning_rate)

    def _multiply_learning_rate(self, learning_rate: Any, variable: Any) -> Any:
        """Return the learning rate of one variable, multiplied by its factors."""
        known = self._model_variable(variable)
        factors = [m for p, m in self.learning_rate_multipliers.items() if matches(p, known)]
        learning_rate = ops.cast(learning_rate, variable.dtype)
        return learning_rate * math.prod(factors) if factors else learning_rate

    def _decay(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Return the gradient with coupled weight decay, or apply decoupled decay to the variable.

        ```
        g <- g + weight_decay * w                     coupled: He et al. 2015, torch, Caffe
        w <- (1 - learning_rate * weight_decay) * w   decoupled: Loshchilov and Hutter 2019, Keras
        ```
        """
        if not self.weight_decay or not self._use_weight_decay(variable):
            return gradient
        weight_decay = ops.cast(self.weight_decay, variable.dtype)
        if not self.decoupled_weight_decay:
            return gradient + weight_decay * ops.convert_to_tensor(variable)
        factor = 1 - learning_rate * weight_decay
        self.assign(variable, factor * ops.convert_to_tensor(variable))
        return gradient

    def _adapt(self, decayed: Any, gradient: Any, variable: Any) -> Any:
        """Return the gradient with weight decay; subclasses such as LARS rescale it."""
        return decayed

    def _descend(
        self, gradient: Any, variable: Any, learning_rate: Any, base_learning_rate: Any
    ) -> None:
        """Update the state and the variable.

        Args:
            gradient: the decayed and adapted gradient, of the variable's shape and type.
            variable: the variable, on TensorFlow a `tf.Variable`.
            learning_rate: the variable's learning rate, including its multiplier.
            base_learning_rate: the optimizer's learning rate.
        """
        raise NotImplementedError

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Do nothing: `_decay` applies weight decay, with the learning rate of the variable."""

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """Make one step, by default for all variables with which the optimizer was built."""
        grads = [None if gradient is None else _dense(gradient) for gradient in grads]
        super().apply(grads, trainable_variables)

    def stateless_apply(
        self, optimizer_variables: list[Any], grads: list[Any], trainable_variables: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Make one step as a pure function, for JAX; some variables may be frozen.

        Keras' method requires all variables with which the optimizer was built. If layers were
        frozen later, this method requires only the variables that are not frozen, in the same
        order.

        Raises:
            ValueError: some variables are frozen although `use_ema` is set, which needs all
                variables.
        """
        trained = [variable for variable in self._trainable_variables if variable.trainable]
        if len(trained) == len(self._trainable_variables):
            result: tuple[list[Any], list[Any]] = super().stateless_apply(
                optimizer_variables, grads, trainable_variables
            )
            return result
        if self.use_ema:
            raise ValueError(
                "on JAX, use_ema averages every variable, but some variables are frozen: "
                "freeze no variable, or train without use_ema"
            )
        mapping = [
            *zip(trained, trainable_variables, strict=True),
            *zip(self.variables, optimizer_variables, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self.apply(grads, trained)
        return (
            [scope.get_current_value(variable) for variable in trained],
            [scope.get_current_value(variable) for variable in self.variables],
        )

    def _clip_gradients(self, grads: Sequence[Any]) -> list[Any]:
        """Clip like Keras, but compute each norm in one pass over the gradient instead of three."""
        known = [gradient for gradient in grads if gradient is not None]
        if (self.clipnorm or 0) > 0:
            limit, norms = self.clipnorm, [norm(gradient) for gradient in known]
        elif (self.global_clipnorm or 0) > 0:
            total = norm(ops.stack([norm(gradient) for gradient in known]))
            limit, norms = self.global_clipnorm, [total] * len(known)
        else:
            return list(super()._clip_gradients(grads))
        # x - x is 0 for finite x and NaN for infinity. Without this term, a norm that overflows
        # would result in a gradient of 0, not NaN.
        clipped = iter(
            gradient * ops.cast(limit / ops.maximum(x, limit) + (x - x), gradient.dtype)
            for gradient, x in zip(known, norms, strict=True)
        )
        return [None if gradient is None else next(clipped) for gradient in grads]

    def _backend_apply_gradients(self, grads: list[Any], trainable_variables: list[Any]) -> None:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            if tf.distribute.has_strategy():
                from keras_cnns.optimizers.replicas import apply_on_replicas

                apply_on_replicas(self, grads, trainable_variables)
                return
        super()._backend_apply_gradients(grads, trainable_variables)

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        super()._backend_update_step(grads, trainable_variables, learning_rate)
        self.finish_step(learning_rate)

    def finish_step(self, learning_rate: Any, is_due: Any = True) -> None:
        """Update the state that does not belong to a variable, after all variables were updated.

        Args:
            learning_rate: the optimizer's learning rate in this step.
            is_due: a bool or a boolean tensor; False if the step only accumulated gradients.
        """

    def _overwrite_model_variables_with_average_value(self, trainable_variables: list[Any]) -> None:
        super()._overwrite_model_variables_with_average_value(trainable_variables)
        if keras.backend.backend() == "jax":
            # The method of Keras leaves the weight and its average in one buffer, which the next
            # `fit` would donate twice. The copy has a buffer of its own.
            for variable in trainable_variables:
                variable.assign(ops.copy(variable))

    def _slots(self) -> dict[str, Sequence[keras.Variable | None]]:
        """Return slot name -> the state variables, in the order of the variables."""
        slots = {}
        if self.use_ema:
            slots["average"] = self._model_variables_moving_average
        if self.gradient_accumulation_steps:
            slots["gradient_accumulator"] = self._accumulated_gradients
        return slots

    def _state(self) -> dict[str, keras.Variable]:
        """Return name -> variable of the state; a slot of a variable is named `slot:path`."""
        state = {}
        slots = self._slots() if self.built else {}
        for slot, variables in slots.items():
            for known, variable in zip(self._trainable_variables, variables, strict=True):
                name = f"{slot}:{path_of(known)}"
                while name in state:
                    name += "'"  # two variables have the same path
                if variable is not None:
                    state[name] = variable
        in_slots = {id(variable) for variable in state.values()}
        return {v.name: v for v in self.variables if id(v) not in in_slots} | state

    def save_own_variables(self, store: Any) -> None:
        """Write the state by variable path."""
        save_state(self._state(), store)

    def load_own_variables(self, store: Any, *, strict: bool = False) -> None:
        """Read the state by variable path; load either the whole state or nothing.

        If the state does not fit, it is not loaded, and a warning lists the differences. As with
        Keras' optimizers, `model.load_weights` then loads only the weights. A state does not fit if
        it was saved with other variables, other options or another optimizer, or if this optimizer
        is not built.

        Args:
            store: name -> array, as `save_own_variables` wrote it.
            strict: raise an error instead of the warning.

        Raises:
            ValueError: with `strict`, the state does not fit.
        """
        owner = f"{type(self).__name__} {self.name!r}"
        load_state(self._state(), store, owner=owner, is_built=self.built, strict=strict)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        return {
            **super().get_config(),
            "decoupled_weight_decay": self.decoupled_weight_decay,
            "exclude_from_weight_decay": list(self._undecayed),
            "learning_rate_multipliers": dict(self.learning_rate_multipliers),
        }
