"""An ONNX graph with an index of its constants, consumers and shapes, for the passes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Graph:
    """The graph of an onnx.ModelProto, which the passes change in place."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self._outputs = {output.name for output in self.graph.output}
        # This cache of shapes stays valid, because no pass changes the shape of a named value.
        self._sizes: dict[str, list[int]] = {}

    def producer(self, name: str) -> Any:
        """Return the node that computes a value, or None."""
        return next((node for node in self.graph.node if name in node.output), None)

    def only_consumer(self, name: str) -> Any:
        """Return the only node that reads a value.

        Return None if several nodes or no node read it, or if it is an output of the graph.
        """
        consumers = [node for node in self.graph.node if name in _reads(node)]
        return consumers[0] if len(consumers) == 1 and name not in self._outputs else None

    def value(self, name: str) -> Any:
        """Return a constant's value as an array; None if the name is not a constant."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def sizes(self, name: str) -> list[int]:
        """Return a value's shape without the batch dimension.

        An unknown size is 0. If the shape is unknown, return [].
        """
        if name not in self._sizes:
            inferred = onnx.shape_inference.infer_shapes(self.model).graph
            self._sizes |= {
                tensor.name: [size.dim_value for size in tensor.type.tensor_type.shape.dim][1:]
                for tensor in (*inferred.value_info, *inferred.input)
            }
        return self._sizes.setdefault(name, [])  # caches unknown shapes, too

    def variable_and_constants(self, node: Any) -> tuple[str | None, list[str]]:
        """Return a node's single non-constant input, and its constant inputs.

        The first item is None if the node has no non-constant input, or several.
        """
        variables = [name for name in node.input if name not in self.constants]
        constants = [name for name in node.input if name in self.constants]
        return (variables[0] if len(variables) == 1 else None), constants

    def add_constant(self, name: str, value: Any) -> str:
        """Add a constant and return its name: `name`, with "_" appended until it is unique."""
        while name in self.constants:
            name += "_"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self.constants[name] = self.graph.initializer[-1]
        return name

    def replace(self, node: Any, *others: Any) -> None:
        """Replace one node by others."""
        index = list(self.graph.node).index(node)
        self.graph.node.remove(node)
        for offset, other in enumerate(others):
            self.graph.node.insert(index + offset, other)

    def drop_unused(self) -> None:
        """Remove the nodes and constants that no output depends on."""
        used = set(self._outputs)
        for node in reversed(list(self.graph.node)):  # the nodes are in topological order
            if used.isdisjoint(node.output):
                self.graph.node.remove(node)
            else:
                used.update(_reads(node))
        for name in set(self.constants) - used - self._outputs:
            self.graph.initializer.remove(self.constants.pop(name))


def attributes(node: Any) -> dict[str, Any]:
    """Return a dict from the names of a node's attributes to their values."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def rewired(node: Any, inputs: list[str], outputs: list[str]) -> Any:
    """Return a copy of a node with other inputs and outputs."""
    other = helper.make_node(node.op_type, inputs, outputs, node.name)
    other.attribute.extend(node.attribute)
    return other


def _reads(node: Any) -> Iterator[str]:
    """Yield the names that a node reads, including those in the body of an If or a Loop."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
