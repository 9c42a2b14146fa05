"""Read a model's variables while `fit` runs."""

import keras
from keras import ops


def fetch_variables(model: keras.Model) -> None:
    """Assign the current values to the variables of a model, its optimizer and metrics.

    On JAX, `fit` itself holds the current values between two steps. On other backends, the function
    does nothing. With several processes, the assigned values are local to this process, so that
    computations of a callback do not wait for the other processes.
    """
    if keras.backend.backend() != "jax":
        return
    model.jax_state_sync()
    for variable in (*model.variables, *model.optimizer.variables):
        if not variable.value.is_fully_addressable:
            variable.assign(variable.value.addressable_data(0))


def inner_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Return a model's optimizer, without the wrapper that scales the loss for float16."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def current_learning_rate(model: keras.Model) -> float:
    """Return the learning rate of the next step."""
    fetch_variables(model)
    return float(ops.convert_to_numpy(inner_optimizer(model).learning_rate))
