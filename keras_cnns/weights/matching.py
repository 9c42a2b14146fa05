"""Match the tensors of a file with the variables of a model, by name and shape."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from keras_cnns.weights.checkpoint import Array, Tensors
from keras_cnns.weights.origin import FileTensors, Origin, layout_of_name
from keras_cnns.weights.structure import CANDIDATES, ModelVariable, blocks_of, variables_of

_CLASSIFIER = r"logits(_aux\d+)?"
_HEAD = r"(logits_(?=aux))?(?P<head>logits|aux\d+)(_.*)?"  # the layers of a head


@dataclass
class Match:
    """The assignment of tensors to variables, and everything that does not fit."""

    values: list[tuple[ModelVariable, FileTensors, Array]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    ignored_heads: list[str] = field(default_factory=list)  # tensors of heads that the model lacks
    # Heads and classifiers that the file cannot initialise, each with the reason.
    new_heads: dict[str, str] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Return whether every tensor and every variable has a counterpart."""
        return not (self.missing or self.surplus or self.misshaped)


def match(variables: Iterable[ModelVariable], origin: Origin, tensors: Tensors) -> Match:
    """Match a file's tensors with a model's variables.

    A head counts as new if the file has no tensor of it. A classifier also counts as new if it
    differs from the file's classifier only in the number of classes.

    Args:
        variables: the model's variables.
        origin: the origin of the file.
        tensors: name in the file -> tensor.
    """
    found = Match()
    known: set[str] = set()
    variables = list(variables)
    blocks = blocks_of(variables)
    needed = [(variable, origin.tensors_of(variable, blocks)) for variable in variables]
    present_heads = {
        head_of(variable)
        for variable, needs in needed
        if needs and not tensors.keys().isdisjoint(needs.names)
    }
    for variable, needs in needed:
        label = f"{variable.layer}/{variable.name}"
        if needs is None:
            found.missing.append(f"{label}, which no file of this origin has")
            continue
        known.update(needs.names)
        absent = [name for name in needs.names if name not in tensors]
        head = head_of(variable)
        if head and head not in present_heads:
            kind = "classifier" if head == "logits" else "such head"
            found.new_heads[head] = f"the file has no {kind}"
        elif classes := _other_classes(variable, needs, tensors):
            found.new_heads[variable.layer] = (
                f"the file has {classes} classes and the model {variable.shape[-1]}"
            )
        elif absent:
            found.missing += [name for name in absent if name not in found.missing]
        else:
            value = _converted(needs, tensors, variable.shape)
            if isinstance(value, str):
                found.misshaped.append(f"{value} for {label} {[*variable.shape]}")
            else:
                found.values.append((variable, needs, value))
    for name in tensors:
        if name not in known and not re.fullmatch(origin.ignored, name):
            is_head = re.fullmatch(origin.heads, name)
            (found.ignored_heads if is_head else found.surplus).append(name)
    return found


def head_of(variable: ModelVariable) -> str:
    """Return the head that a variable belongs to (`logits`, `aux1`, `aux2`), or ""."""
    found = re.fullmatch(_HEAD, variable.layer)
    return found["head"] if found else ""


def _other_classes(variable: ModelVariable, needs: FileTensors, tensors: Tensors) -> int | None:
    """Return a classifier's number of classes in the file if nothing else differs; else None."""
    name = needs.names[0]
    if not re.fullmatch(_CLASSIFIER, variable.layer) or name not in tensors:
        return None
    try:
        *inputs, classes = needs.convert(tensors[name]).shape
    except ValueError:
        return None
    *expected_inputs, expected = variable.shape
    return classes if inputs == expected_inputs and classes != expected else None


def _converted(needs: FileTensors, tensors: Tensors, shape: tuple[int, ...]) -> Array | str:
    """Return a variable's value, or a description of the tensor if its shape or type is wrong."""
    found = [tensors[name] for name in needs.names]
    for number, (name, tensor) in enumerate(zip(needs.names, found, strict=True)):
        if tensor.dtype != "float32":
            return f"{name} of {tensor.dtype}"
        if number and tensor.shape != tuple(shape):
            return f"{name} {[*tensor.shape]}"
    try:
        value = needs.convert(*found)
    except ValueError:
        value = None
    if value is None or value.shape != tuple(shape):
        return f"{needs.names[0]} {[*found[0].shape]}"
    return value


def models_that_fit(origin: Origin, tensors: Tensors) -> list[str]:
    """Return the names of our models that can load these tensors."""
    channels = origin.channels(tensors)
    if channels is None:
        return []
    return [
        name
        for name in CANDIDATES
        if layout_of_name(name) in origin.layouts
        and match(variables_of(name, channels), origin, tensors).fits
    ]
