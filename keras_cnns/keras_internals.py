"""Every use of Keras' private API: attributes of its objects that begin with an underscore.

They may change in any release of Keras, so that `pyproject.toml` states the tested versions. Each
function names the private attribute that it uses, and the public one that is missing.
"""

from typing import Any

import keras


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model at every depth, without the model itself.

    `model._flatten_layers`; the public `model.layers` has those at the first level only.
    """
    return list(model._flatten_layers(include_self=False))


def sublayers(layer: keras.layers.Layer) -> list[Any]:
    """Return the layers and metrics that a layer holds.

    `layer._layers`; only models have the public `layers`.
    """
    return list(layer._layers)


def symbolic_build(model: keras.Model, batch: Any) -> None:
    """Create the variables of a compiled model's metrics and optimizer, as the first step does.

    `model._symbolic_build`, which Keras' trainers call for JAX; nothing public creates them without
    a step or an evaluation.

    Args:
        model: the compiled model.
        batch: (x, y) or (x, y, sample_weight), as in `fit`.
    """
    model._symbolic_build(data_batch=batch)


def averaged_variables(optimizer: keras.optimizers.Optimizer) -> list[tuple[Any, Any]]:
    """Return each trainable variable of an optimizer with `use_ema=True`, and its moving average.

    `optimizer._trainable_variables` and `optimizer._model_variables_moving_average`; the public
    `finalize_variable_values` overwrites the weights of the training. The average is None for a
    variable that has none.
    """
    averages = optimizer._model_variables_moving_average
    return list(zip(optimizer._trainable_variables, averages, strict=True))
