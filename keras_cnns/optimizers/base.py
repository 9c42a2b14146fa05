"""What the optimizers share: weight decay and learning rates by variable path, clipping, state."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_cnns.optimizers.paths import check_patterns, check_regexes, matches, path_of
from keras_cnns.optimizers.state import load_state, save_state


def dense(gradient: Any) -> Any:
    """Sum the rows of a sparse gradient into a dense one; return a dense one as it is."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)
    return ops.convert_to_tensor(gradient, sparse=False)


def norm(x: Any) -> Any:
    """Return the Euclidean norm of a tensor of any shape, a float32 scalar (or float64)."""
    x = ops.convert_to_tensor(x)
    if ops.dtype(x) not in ("float32", "float64"):
        x = ops.cast(x, "float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.sqrt(2 * tf.nn.l2_loss(x))  # one pass, and no tensor of squares
    return ops.sqrt(ops.sum(ops.square(x)))


class PathOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer whose options and state are keyed by variable path.

    Subclasses implement `update_step`, which calls `_rate` and `_decay`, and list their slots in
    `_slots`.

    Args:
        learning_rate: at least 0; a float, a `LearningRateSchedule` or a callable.
        weight_decay: per step, at least 0; None for none.
        decoupled_weight_decay: decay beside the gradient, not as a part of it.
        exclude_from_weight_decay: patterns of variables that do not decay.
        learning_rate_multipliers: pattern -> factor; of several that match, the product.
        name: the optimizer's name.
        kwargs: what every Keras optimizer takes.
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
            # 0 is allowed: it is where many schedules end, and a model is saved and loaded there.
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
                    f"learning_rate_multipliers: {factor} for {pattern!r}; "
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
        """Make the state for these variables."""
        check_patterns(self._undecayed, variables, "exclude_from_weight_decay")
        check_patterns(self.learning_rate_multipliers, variables, "learning_rate_multipliers")
        super().build(variables)

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Choose the variables that do not decay, in place of those chosen before.

        It may be called before and after `build`. A step that is compiled already (after `fit`,
        or the first call of a `tf.function`) stays as it is, as with every attribute of a Keras
        optimizer: call `model.make_train_function(force=True)` then.

        Args:
            var_list: the variables themselves.
            var_names: patterns, found anywhere in a path or name; `"norm_and_bias"` stands for
                the scales and offsets of normalisation, and biases.

        Raises:
            ValueError: a pattern is found in no variable.
        """
        exact = [f"^{re.escape(path_of(variable))}$" for variable in var_list or ()]
        patterns = exact + check_regexes(var_names or (), "exclude_from_weight_decay")
        if self.built:
            check_patterns(patterns, self._trainable_variables, "exclude_from_weight_decay")
        self._undecayed = patterns

    def _model_variable(self, variable: Any) -> Any:
        """Return the Keras variable of what `update_step` gets, on TensorFlow a `tf.Variable`."""
        return self._trainable_variables[self._get_variable_index(variable)]

    def _use_weight_decay(self, variable: Any) -> bool:
        variable = self._model_variable(variable)
        return not any(matches(pattern, variable) for pattern in self._undecayed)

    def _rate(self, learning_rate: Any, variable: Any) -> Any:
        """Return the learning rate of one variable."""
        known = self._model_variable(variable)
        factors = [m for p, m in self.learning_rate_multipliers.items() if matches(p, known)]
        learning_rate = ops.cast(learning_rate, variable.dtype)
        return learning_rate * math.prod(factors) if factors else learning_rate

    def _decay(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Return the gradient with its weight decay; decay the variable itself if decoupled.

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
        kept = 1 - learning_rate * weight_decay
        self.assign(variable, kept * ops.convert_to_tensor(variable))
        return gradient

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Do nothing: `_decay` does it, where the variable's own learning rate is known."""

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """Make one step: `grads` belong to `trainable_variables`, or to those of `build`."""
        grads = [None if gradient is None else dense(gradient) for gradient in grads]
        super().apply(grads, trainable_variables)

    def stateless_apply(
        self, optimizer_variables: list[Any], grads: list[Any], trainable_variables: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Make one step as a pure function, for JAX; some of the variables may be frozen.

        Keras' own demands every variable that the optimizer was built on. In a model whose layers
        were frozen since, `trainable_variables` are those that still train, in the same order.

        Raises:
            ValueError: some variables are frozen, and `use_ema` would average all of them.
        """
        trained = [variable for variable in self._trainable_variables if variable.trainable]
        if len(trained) == len(self._trainable_variables):
            result: tuple[list[Any], list[Any]] = super().stateless_apply(
                optimizer_variables, grads, trainable_variables
            )
            return result
        if self.use_ema:
            raise ValueError(
                "on JAX, use_ema averages every variable, and some are frozen: freeze none, "
                "or train without use_ema"
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
        """Clip as Keras does; the norms by `norm`, which takes one pass instead of three."""
        known = [gradient for gradient in grads if gradient is not None]
        if (self.clipnorm or 0) > 0:
            limit, norms = self.clipnorm, [norm(gradient) for gradient in known]
        elif (self.global_clipnorm or 0) > 0:
            total = norm(ops.stack([norm(gradient) for gradient in known]))
            limit, norms = self.global_clipnorm, [total] * len(known)
        else:
            return list(super()._clip_gradients(grads))
        # x - x is 0 for a number and NaN for infinity: an overflow shows, it does not become 0.
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
        self._after_updates(learning_rate)

    def _after_updates(self, learning_rate: Any, due: Any = True) -> None:
        """Write what belongs to the step, not to a variable; only if the step was due."""

    def _overwrite_model_variables_with_average_value(self, trainable_variables: list[Any]) -> None:
        super()._overwrite_model_variables_with_average_value(trainable_variables)
        if keras.backend.backend() == "jax":
            # Keras leaves weight and average in one buffer, which the next `fit` donates twice.
            for variable in trainable_variables:
                variable.assign(ops.copy(variable))

    def _slots(self) -> dict[str, Sequence[keras.Variable | None]]:
        """Return the state that each variable has, a list in the variables' order for each name."""
        slots = {}
        if self.use_ema:
            slots["average"] = self._model_variables_moving_average
        if self.gradient_accumulation_steps:
            slots["gradient_accumulator"] = self._accumulated_gradients
        return slots

    def _state(self) -> dict[str, keras.Variable]:
        """Return `iteration` and its like, and `slot:path` for what each variable has."""
        state = {}
        slots = self._slots() if self.built else {}
        for slot, variables in slots.items():
            for known, variable in zip(self._trainable_variables, variables, strict=True):
                name = f"{slot}:{path_of(known)}"
                while name in state:
                    name += "'"  # of equal paths the next in order
                if variable is not None:
                    state[name] = variable
        in_slots = {id(variable) for variable in state.values()}
        return {v.name: v for v in self.variables if id(v) not in in_slots} | state

    def save_own_variables(self, store: Any) -> None:
        """Write the state by variable path."""
        save_state(self._state(), store)

    def load_own_variables(self, store: Any, *, strict: bool = False) -> None:
        """Read the state by variable path, all of it or nothing.

        A state that does not fit is left out with a warning that names what differs, as Keras'
        optimizers do: `model.load_weights` then loads the weights alone. It does not fit if it
        belongs to other variables, other options or another optimizer, or if this optimizer is
        not built.

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
