"""Fit a file's tensors to a net: all of them are checked before the first is assigned."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_cnns.weights import keras_applications, own_file, torch_checkpoint
from keras_cnns.weights.errors import WeightsError, shorten
from keras_cnns.weights.files import Array, Tensors, read
from keras_cnns.weights.origin import (
    BLOCK,
    LAYOUTS,
    Origin,
    Place,
    Source,
    blocks_of,
    layout_of,
    nets_that_fit,
)

logger = logging.getLogger(__name__)

ORIGINS: tuple[Origin, ...] = (
    *torch_checkpoint.ORIGINS,
    *keras_applications.ORIGINS,
    *own_file.ORIGINS,
)


@dataclass(frozen=True)
class Report:
    """What `load` did."""

    origin: str  # whose file it was
    tensors: int  # of the file, that the net took
    parameters: int  # trainable numbers of the net that came from the file
    left: tuple[str, ...]  # tensors of heads that the net does not have
    new_heads: tuple[str, ...]  # classifiers of another number of classes: as they were


def load(model: keras.Model, file: Path | str) -> Report:
    """Give a net the weights of a file.

    A classifier whose number of classes is not the file's stays as it was, and a logged warning
    says so. Heads of the file that the net does not have are left there.

    Args:
        model: a net of `keras_cnns.models`, channels and classes being its own.
        file: as `read` takes it; of any origin.

    Raises:
        WeightsError: the file cannot be read; its net computes something else than the model; or a
            tensor is missing, surplus or mis-shaped. The model is then as it was.
    """
    return load_tensors(model, read(file), str(file))


def load_tensors(model: keras.Model, tensors: Tensors, file: str) -> Report:
    """Do what `load` does, with what `read` returned.

    Args:
        model: the net.
        tensors: by the names that they have in the file.
        file: what to call it in messages.
    """
    tensors = without_prefix(tensors)
    origin = find_origin(tensors, file)
    check_layout(model, origin, tensors, file)
    values: list[tuple[keras.Variable, Array]] = []
    missing, misshaped, new_heads = [], [], []
    taken: set[str] = set()
    for place, variable in places_of(model):
        source = origin.source(place)
        if source is None:
            missing.append(f"{place.layer.name}/{place.variable}, which no such file has")
            continue
        taken.update(source.names)
        absent = [name for name in source.names if name not in tensors]
        if absent:
            missing += [name for name in absent if name not in missing]
            continue
        if is_new_head(place, source, tensors):
            new_heads.append(place.layer.name)
            continue
        value = converted(source, tensors, variable.shape)
        if isinstance(value, str):
            misshaped.append(f"{value} for {place.layer.name}/{place.variable} {[*variable.shape]}")
        else:
            values.append((variable, value))
    rest = [
        name for name in tensors if name not in taken and not re.fullmatch(origin.ignored, name)
    ]
    left = [name for name in rest if re.fullmatch(origin.heads, name)]
    surplus = [name for name in rest if name not in left]
    if missing or surplus or misshaped:
        message = f"{file} is not of {model.name}{about_channels(model, origin, tensors)}"
        raise WeightsError(message, missing=missing, surplus=surplus, misshaped=misshaped)
    for variable, value in values:
        variable.assign(value)
    heads = tuple(sorted(set(new_heads)))
    if heads:
        logger.warning(
            "%s: %s new, as the file has %d classes and %s %d",
            file,
            f"{', '.join(heads)} {'is' if len(heads) == 1 else 'are'}",
            tensors[origin.classifier].size,
            model.name,
            model.get_layer(heads[0]).units,
        )
    return Report(
        origin.title,
        len(taken & tensors.keys()) - len(new_heads),
        sum(value.size for variable, value in values if variable.trainable),
        tuple(left),
        heads,
    )


def without_prefix(tensors: Tensors) -> Tensors:
    """Return them under their own names: wrapped nets put one word before all, as `module.`."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    # The files that keras.applications publishes are older than its present name of the head.
    return {re.sub("^probs/", "predictions/", name): each for name, each in tensors.items()}


def find_origin(tensors: Tensors, file: str) -> Origin:
    """Return whose names these are.

    Raises:
        WeightsError: nobody's that we know.
    """
    for origin in ORIGINS:
        if any(re.fullmatch(origin.signature, name) for name in tensors):
            return origin
    raise WeightsError(
        f"{file}: the tensors' names ({shorten(tuple(tensors))}) are not of "
        + ", ".join(origin.title for origin in ORIGINS)
    )


def check_layout(model: keras.Model, origin: Origin, tensors: Tensors, file: str) -> None:
    """Demand that the model computes what the file's net does.

    Raises:
        WeightsError: it does not, though the tensors might fit.
    """
    layout = layout_of(model)
    if layout is None:
        raise WeightsError(f"{model.name} is not a net of keras_cnns.models")
    if layout in origin.layouts:
        return
    fitting = nets_that_fit(origin.layouts, blocks_of(tensors, origin.block, origin.first_block))
    advice = f"; {' or '.join(fitting)} reads it" if fitting else ""
    raise WeightsError(
        f"{file} is {origin.title}, which {LAYOUTS[origin.layouts[0]]}; "
        f"{model.name} {LAYOUTS[layout]}{advice}"
    )


def places_of(model: keras.Model) -> Iterator[tuple[Place, keras.Variable]]:
    """Walk the model's weights; a layer's own name and the variable's say where they go."""
    blocks = blocks_of((layer.name for layer in model.layers), BLOCK)
    for layer in model.layers:
        for variable in layer.weights:
            yield Place(layer, variable.name, blocks), variable


def is_new_head(place: Place, source: Source, tensors: Tensors) -> bool:
    """Tell whether this is of a classifier that differs from the file's in its classes alone."""
    if not re.fullmatch(r"logits(_aux\d+)?", place.layer.name):
        return False
    *inputs, classes = getattr(place.layer, place.variable).shape
    try:
        *found_inputs, found_classes = source.convert(tensors[source.names[0]]).shape
    except ValueError:
        return False
    return found_inputs == inputs and bool(found_classes != classes)


def converted(source: Source, tensors: Tensors, shape: tuple[int, ...]) -> Array | str:
    """Return the variable's value; or, where a tensor has not its shape, the tensor in words."""
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


def about_channels(model: keras.Model, origin: Origin, tensors: Tensors) -> str:
    """Return a hint where the file's net reads images of another number of channels."""
    stem = tensors.get(origin.stem)
    if stem is None or stem.ndim != 4:
        return ""
    theirs, ours = stem.shape[origin.channels_axis], model.input_shape[-1]
    if theirs == ours:
        return ""
    return f", which reads images of {ours} channels where the file's net reads {theirs}"
