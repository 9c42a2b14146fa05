"""The values of a model's variables while `fit` runs."""

import keras


def fetch_variables(model: keras.Model) -> None:
    """Assign the current values to the variables of a model, its optimizer and metrics.

    On JAX, `fit` holds the values itself between two steps; elsewhere there is nothing to do.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
