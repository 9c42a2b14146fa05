"""Read a model's variables while `fit` runs."""

import keras
from keras import ops


def fetch_variables(model: keras.Model) -> None:
    """Assign the current values to the variables of a model, its optimizer and metrics.

    On JAX, `fit` holds the values itself between two steps; elsewhere there is nothing to do.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def inner_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Return a model's optimizer, without the wrapper that scales the loss for float16."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def current_learning_rate(model: keras.Model) -> float:
    """Return the learning rate of the next step."""
    fetch_variables(model)
    return float(ops.convert_to_numpy(inner_optimizer(model).learning_rate))
