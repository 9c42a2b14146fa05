"""Every use of Keras' private API: attributes of its objects that begin with an underscore.

They may change in any release of Keras, so that `pyproject.toml` states the tested versions. Each
function names the private attribute that it uses, and the public one that is missing.
"""

from collections.abc import Callable
from typing import Any

import keras


def operation_of(tensor: Any) -> Any:
    """Return the operation (a layer, or `a + b`) whose output a symbolic tensor is."""
    return tensor._keras_history.operation


def input_tensors(tensor: Any) -> list[Any]:
    """Return the symbolic tensors that the operation of `tensor` was called with; [] for an Input.

    An operation that is called several times has one list for each call.
    """
    history = tensor._keras_history
    return list(history.operation._inbound_nodes[history.node_index].input_tensors)


def layers_within(layer: Any) -> list[Any]:
    """Return a layer and all layers inside it, however deep; of a model, all of its layers."""
    return list(layer._flatten_layers())


def functional_graph(operation: Any) -> Any:
    """Return a functional model itself, or the one inside a Sequential; None for a layer."""
    model = getattr(operation, "_functional", None) or operation
    is_graph = isinstance(model, keras.Model) and hasattr(model, "_run_through_graph")
    return model if is_graph else None


def run_through_graph(model: Any, inputs: Any, call: Callable[..., Any]) -> Any:
    """Return a functional model's outputs, where each operation is executed by `call`.

    Args:
        model: a functional model.
        inputs: its inputs, arrays or symbolic tensors.
        call: `call(operation, *args, **kwargs)` returns the operation's outputs.
    """
    return model._run_through_graph(inputs, operation_fn=lambda own: own, call_fn=call)
