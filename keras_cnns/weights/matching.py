"""Match the tensors of a file with the variables of a model, by name and shape."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from keras_cnns.weights.checkpoint import Array, Tensors
from keras_cnns.weights.origin import (
    BLOCK,
    Origin,
    Place,
    Source,
    blocks_of,
    layout_of_name,
)
from keras_cnns.weights.structure import CANDIDATES, variables_of

CLASSIFIER = r"logits(_aux\d+)?"
HEAD = r"(logits_(?=aux))?(?P<head>logits|aux\d+)(_.*)?"  # the layers of a head


@dataclass
class Match:
    """The assignment of tensors to variables, and everything that does not fit."""

    values: list[tuple[Place, Source, Array]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    ignored_heads: list[str] = field(default_factory=list)  # tensors of heads the model lacks
    # Heads and classifiers that the file cannot initialise, each with the reason.
    new_heads: dict[str, str] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether every tensor and every variable has been assigned."""
        return not (self.missing or self.surplus or self.misshaped)


def match(places: Iterable[Place], origin: Origin, tensors: Tensors) -> Match:
    """Match a file's tensors with a model's variables.

    A head of which the file has no tensor, and a classifier that differs from the file's in nothing
    but the number of classes, are new.

    Args:
        places: the model's variables.
        origin: the origin of the file.
        tensors: the tensors by their names in the file.
    """
    found = Match()
    known: set[str] = set()
    sources = [(place, origin.source(place)) for place in places]
    present_heads = {
        head_of(place)
        for place, source in sources
        if source and not tensors.keys().isdisjoint(source.names)
    }
    for place, source in sources:
        if source is None:
            found.missing.append(f"{place.layer}/{place.variable}, which no such file has")
            continue
        known.update(source.names)
        absent = [name for name in source.names if name not in tensors]
        head = head_of(place)
        if head and head not in present_heads:
            thing = "classifier" if head == "logits" else "such head"
            found.new_heads[head] = f"the file has no {thing}"
        elif classes := other_classes(place, source, tensors):
            found.new_heads[place.layer] = (
                f"the file has {classes} classes and the model {place.shape[-1]}"
            )
        elif absent:
            found.missing += [name for name in absent if name not in found.missing]
        else:
            value = converted(source, tensors, place.shape)
            if isinstance(value, str):
                where = f"{place.layer}/{place.variable} {[*place.shape]}"
                found.misshaped.append(f"{value} for {where}")
            else:
                found.values.append((place, source, value))
    for name in tensors:
        if name not in known and not re.fullmatch(origin.ignored, name):
            is_head = re.fullmatch(origin.heads, name)
            (found.ignored_heads if is_head else found.surplus).append(name)
    return found


def head_of(place: Place) -> str:
    """Return the head that a variable belongs to (`logits`, `aux1`, `aux2`), or ""."""
    found = re.fullmatch(HEAD, place.layer)
    return found["head"] if found else ""


def other_classes(place: Place, source: Source, tensors: Tensors) -> int | None:
    """Return the number of classes of a file's classifier if it differs in nothing else."""
    name = source.names[0]
    if not re.fullmatch(CLASSIFIER, place.layer) or name not in tensors:
        return None
    try:
        *inputs, classes = source.convert(tensors[name]).shape
    except ValueError:
        return None
    *expected_inputs, expected = place.shape
    return classes if inputs == expected_inputs and classes != expected else None


def converted(source: Source, tensors: Tensors, shape: tuple[int, ...]) -> Array | str:
    """Return a variable's value, or a description of the tensor that has another shape or type."""
    found = [tensors[name] for name in source.names]
    for name, tensor in zip(source.names, found, strict=True):
        if tensor.dtype != "float32":
            return f"{name} of {tensor.dtype}"
    for name, tensor in zip(source.names[1:], found[1:], strict=True):
        if tensor.shape != tuple(shape):
            return f"{name} {[*tensor.shape]}"
    try:
        value = source.convert(*found)
    except ValueError:
        value = None
    if value is None or value.shape != tuple(shape):
        return f"{source.names[0]} {[*found[0].shape]}"
    return value


def models_that_fit(origin: Origin, tensors: Tensors) -> list[str]:
    """Return the names of the models in the registry that load these tensors."""
    channels = origin.channels(tensors)
    if channels is None:
        return []
    fitting = []
    for name in CANDIDATES:
        if layout_of_name(name) in origin.layouts:
            variables = [*variables_of(name, channels)]
            blocks = blocks_of((layer for layer, *_ in variables), BLOCK)
            places = [Place(*variable, blocks) for variable in variables]
            if match(places, origin, tensors).fits:
                fitting.append(name)
    return fitting
