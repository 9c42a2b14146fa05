"""All uses of Keras' private interface; pyproject.toml states the tested versions of Keras.

Each function wraps one private attribute or method of a Keras object. A subclass has to override or
read private members of its own base class where it is defined:

- `keras.optimizers.Optimizer`, in `keras_cnns.optimizers.base`: overrides `_apply_weight_decay`,
  `_clip_gradients`, `_backend_apply_gradients`, `_backend_update_step` and
  `_overwrite_model_variables_with_average_value`; reads `_trainable_variables`,
  `_get_variable_index`, `_model_variables_moving_average` and `_accumulated_gradients`.
"""

from typing import Any


def trainable_variables(optimizer: Any) -> list[Any]:
    """Return the variables on which an optimizer was built."""
    return list(optimizer._trainable_variables)


def moving_averages(optimizer: Any) -> list[Any]:
    """Return an optimizer's averages of `trainable_variables`, with `use_ema`."""
    return list(optimizer._model_variables_moving_average)


def gradient_accumulators(optimizer: Any, variables: list[Any]) -> list[Any]:
    """Return the accumulator of each variable, with `gradient_accumulation_steps`."""
    accumulators = optimizer._accumulated_gradients
    return [accumulators[optimizer._get_variable_index(variable)] for variable in variables]


def backward_passes(optimizer: Any) -> Any:
    """Return the number of calls of `apply`; `iterations` counts the updates of the weights."""
    return optimizer._iterations


def clip_gradients(optimizer: Any, gradients: list[Any]) -> list[Any]:
    """Return gradients clipped as the optimizer's `clipnorm` and its like specify."""
    return list(optimizer._clip_gradients(gradients))
