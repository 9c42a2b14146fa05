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


@dataclass
class Match:
    """Which tensor goes where, and what does not fit."""

    values: list[tuple[Place, Source, Array]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # tensors of heads that the model does not have
    new_heads: set[str] = field(default_factory=set)  # classifiers that are not in the file

    @property
    def fits(self) -> bool:
        """Whether the file is one of this model."""
        return not (self.missing or self.surplus or self.misshaped)


def match(places: Iterable[Place], origin: Origin, tensors: Tensors) -> Match:
    """Match a file's tensors with a model's variables.

    Args:
        places: the model's variables.
        origin: where the file is from.
        tensors: by their names in the file.
    """
    found = Match()
    known: set[str] = set()
    for place in places:
        source = origin.source(place)
        if source is None:
            found.missing.append(f"{place.layer}/{place.variable}, which no such file has")
            continue
        known.update(source.names)
        absent = [name for name in source.names if name not in tensors]
        if is_new_head(place, source, origin, tensors):
            found.new_heads.add(place.layer)
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
            rest = found.left if re.fullmatch(origin.heads, name) else found.surplus
            rest.append(name)
    return found


def is_new_head(place: Place, source: Source, origin: Origin, tensors: Tensors) -> bool:
    """Return whether a variable belongs to a classifier that the file cannot initialise.

    Either the file has no main classifier at all, or its classifier differs in nothing but the
    number of classes.
    """
    if not re.fullmatch(CLASSIFIER, place.layer):
        return False
    (name,) = source.names
    if name not in tensors:
        classifier = origin.classifier.removesuffix("bias")
        return place.layer == "logits" and not any(each.startswith(classifier) for each in tensors)
    *inputs, classes = place.shape
    try:
        *found_inputs, found_classes = source.convert(tensors[name]).shape
    except ValueError:
        return False
    return found_inputs == inputs and bool(found_classes != classes)


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
