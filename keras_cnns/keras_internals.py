"""All uses of private attributes of Keras and TensorFlow, which begin with an underscore.

These attributes may change in any release; `pyproject.toml` states the tested versions.
Each function wraps one private attribute that has no public equivalent. The other uses belong to
optimizers, because a subclass has to override and read private members of its base class:

- `keras.optimizers.Optimizer`, in `keras_cnns.optimizers.base`: overrides `_apply_weight_decay`,
  `_clip_gradients`, `_backend_apply_gradients`, `_backend_update_step` and
  `_overwrite_model_variables_with_average_value`; reads `_trainable_variables`,
  `_get_variable_index`, `_model_variables_moving_average` and `_accumulated_gradients`;
  `keras_cnns.optimizers.momentum` also reads `_get_variable_index`;
- `tf.__internal__.distribute`, in `keras_cnns.optimizers.replicas`: calls `maybe_merge_call`.
"""

from collections.abc import Callable
from typing import Any

import keras

# Memory.


def clear_session() -> None:
    """Release the memory of unused models; do not train any existing model after this call.

    `keras.utils.clear_session` is not enough on TensorFlow. Each call of a `tf.custom_gradient`
    function in a graph adds an entry to TensorFlow's registry of gradients
    (`gradient_registry._registry`), and the entry keeps the whole graph alive until the process
    ends. Later graphs then also take longer to build.
    """
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework import ops

        registry = ops.gradient_registry._registry
        for name in [name for name in registry if name.startswith("CustomGradient-")]:
            del registry[name]
    keras.utils.clear_session()  # collects garbage, to which these graphs now belong


# Models and layers.


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return all layers nested in a model or layer at any depth, without the object itself.

    The method is `model._flatten_layers`. The public `model.layers` has only the layers at the
    first level.
    """
    return list(model._flatten_layers(include_self=False))


def sublayers(layer: keras.layers.Layer) -> list[Any]:
    """Return the layers and metrics that a layer holds.

    The attribute is `layer._layers`. Only models have the public attribute `layers`.
    """
    return list(layer._layers)


def symbolic_build(model: keras.Model, batch: Any) -> None:
    """Create the variables of a compiled model's metrics and optimizer, as the first step would.

    The method is `model._symbolic_build`, which Keras' trainers call for JAX. No public method
    creates these variables without a step or an evaluation.

    Args:
        model: the compiled model.
        batch: (x, y) or (x, y, sample_weight), as in `fit`.
    """
    model._symbolic_build(data_batch=batch)


def use_one_device_by_default(model: keras.Model) -> None:
    """Let `fit` and `predict` ignore the strategy in whose scope the model was built.

    The attribute is `model._distribute_strategy`. With the strategy, Keras would divide batches
    itself, and could not predict a batch that leaves a replica without images.
    """
    model._distribute_strategy = None


# Graphs of symbolic tensors.


def operation_of(tensor: Any) -> Any:
    """Return the operation (a layer, or `a + b`) that computes a symbolic tensor."""
    return tensor._keras_history.operation


def input_tensors(tensor: Any) -> list[Any]:
    """Return the symbolic inputs of the operation that computes `tensor`; [] for an Input.

    If an operation is called several times, the inputs are those of the call that computes
    `tensor`.
    """
    history = tensor._keras_history
    return list(history.operation._inbound_nodes[history.node_index].input_tensors)


def functional_graph(operation: Any) -> Any:
    """Return a functional model, or the functional model inside a Sequential; None for a layer."""
    model = getattr(operation, "_functional", None) or operation
    is_graph = isinstance(model, keras.Model) and hasattr(model, "_run_through_graph")
    return model if is_graph else None


def run_through_graph(model: Any, inputs: Any, call: Callable[..., Any]) -> Any:
    """Return a functional model's outputs, where each operation is executed by `call`.

    Args:
        model: a functional model.
        inputs: the inputs of the model, arrays or symbolic tensors.
        call: `call(operation, *args, **kwargs)` returns the operation's outputs.
    """
    return model._run_through_graph(inputs, operation_fn=lambda own: own, call_fn=call)


# Optimizers.


def averaged_variables(optimizer: keras.optimizers.Optimizer) -> list[tuple[Any, Any]]:
    """Return pairs of a trainable variable and its moving average, for `use_ema=True`.

    If a variable has no average, the second element of its pair is None. The public
    `finalize_variable_values` would overwrite the weights of the training.
    """
    averages = optimizer._model_variables_moving_average
    return list(zip(optimizer._trainable_variables, averages, strict=True))


def gradient_accumulators(optimizer: Any, variables: list[Any]) -> list[Any]:
    """Return each variable's gradient accumulator; `gradient_accumulation_steps` must be set."""
    accumulators = optimizer._accumulated_gradients
    return [accumulators[optimizer._get_variable_index(variable)] for variable in variables]


def backward_passes(optimizer: Any) -> Any:
    """Return the number of calls of `apply`; `iterations` counts only updates of the weights."""
    return optimizer._iterations


def clip_gradients(optimizer: Any, gradients: list[Any]) -> list[Any]:
    """Return gradients clipped as `clipnorm`, `clipvalue` or `global_clipnorm` specifies."""
    return list(optimizer._clip_gradients(gradients))
