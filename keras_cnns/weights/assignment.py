"""Load a file's tensors into a model: all of them are checked before the first is assigned."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_cnns.weights import keras_applications, own_file, torch_checkpoint
from keras_cnns.weights.checkpoint import Tensors
from keras_cnns.weights.errors import WeightsError, shorten
from keras_cnns.weights.files import read_checkpoint
from keras_cnns.weights.matching import Match, match, models_that_fit
from keras_cnns.weights.origin import BLOCK, LAYOUTS, Origin, Place, blocks_of, layout_of

logger = logging.getLogger(__name__)

ORIGINS: tuple[Origin, ...] = (
    *torch_checkpoint.ORIGINS,
    *keras_applications.ORIGINS,
    *own_file.ORIGINS,
)
# Wrappers of torch's, and the attributes under which training code keeps its network.
PREFIXES = r"((module|_orig_mod|model|backbone|net)\.)+"
AVERAGED = "n_averaged"  # the counter of torch.optim.swa_utils.AveragedModel


@dataclass(frozen=True)
class Report:
    """What `load` did."""

    origin: str  # title of the file's origin
    tensors: int  # number of tensors of the file that were assigned
    parameters: int  # number of trainable parameters of the model that came from the file
    left: tuple[str, ...]  # tensors of heads that the model does not have
    new_heads: tuple[str, ...]  # classifiers that kept their initial values


def load(model: keras.Model, file: Path | str) -> Report:
    """Load the weights of a file into a model.

    A classifier keeps its initial values if the file has none, or one of another number of
    classes; a logged warning names it. Heads of the file that the model does not have are left
    out.

    Args:
        model: a model of `keras_cnns.models`, of any number of channels and classes.
        file: a file as `read` takes it, of any origin.

    Raises:
        WeightsError: the file cannot be read; its network computes something else than the model;
            a tensor is missing, surplus or has the wrong shape; or a tensor has NaN, infinite or,
            as a variance, negative values. The model is then unchanged.
    """
    tensors, architecture = read_checkpoint(file)
    return load_tensors(model, tensors, str(file), architecture)


def load_tensors(
    model: keras.Model, tensors: Tensors, file: str, architecture: str | None = None
) -> Report:
    """Do what `load` does, with tensors that `read` returned.

    Args:
        model: the model.
        tensors: the tensors by their names in the file.
        file: the file's name in messages.
        architecture: its architecture's name in the file's metadata, if any.
    """
    tensors = without_prefix(tensors, file)
    origin = find_origin(tensors, file)
    check_layout(model, origin, tensors, file, architecture)
    variables = {
        (layer.name, variable.name): variable
        for layer in model.layers
        for variable in layer.weights
    }
    found = match(places_of(model), origin, tensors)
    if not found.fits:
        hint = about_channels(model, origin, tensors)
        if not hint and (fitting := models_that_fit(origin, tensors)):
            hint = f" ({' or '.join(fitting)} reads it)"
        raise WeightsError(
            f"{file} is not of {model.name}{hint}",
            missing=found.missing,
            surplus=found.surplus,
            misshaped=found.misshaped,
        )
    invalid = invalid_tensors(found, tensors)
    if invalid:
        raise WeightsError(f"{file} is damaged", invalid=invalid)
    parameters = 0
    for place, _, value in found.values:
        variable = variables[place.layer, place.variable]
        variable.assign(value)
        parameters += value.size if variable.trainable else 0
    heads = tuple(sorted(found.new_heads))
    if heads:
        reason = "as the file has no classifier"
        if origin.classifier in tensors:
            classes = tensors[origin.classifier].size, model.get_layer(heads[0]).units
            reason = f"as the file has {classes[0]} classes and {model.name} {classes[1]}"
        verb = "is" if len(heads) == 1 else "are"
        logger.warning("%s: %s %s new, %s", file, ", ".join(heads), verb, reason)
    assigned = {name for _, source, _ in found.values for name in source.names}
    return Report(origin.title, len(assigned), parameters, tuple(found.left), heads)


def without_prefix(tensors: Tensors, file: str) -> Tensors:
    """Return the tensors by their names in the network alone, without those of its wrappers.

    Each name loses all of PREFIXES that it begins with, in any order: heads may lie outside of the
    backbone, as in `backbone.conv1.weight` and `fc.weight`.

    Raises:
        WeightsError: two tensors have the same name then, as those of two networks in one file.
    """
    found: Tensors = {}
    originals: dict[str, str] = {}
    for original, tensor in tensors.items():
        name = re.sub(f"^{PREFIXES}", "", original)
        # The files that keras.applications publishes have an older name of the head.
        name = re.sub("^probs/", "predictions/", name)
        if name in originals:
            raise WeightsError(
                f"{file} has {name} twice, as {originals[name]} and as {original}: "
                "keep the tensors of one network"
            )
        if name != AVERAGED:
            found[name], originals[name] = tensor, original
    return found


def find_origin(tensors: Tensors, file: str) -> Origin:
    """Return the origin whose files have such names.

    Raises:
        WeightsError: there is none.
    """
    for origin in ORIGINS:
        if any(re.fullmatch(origin.signature, name) for name in tensors):
            return origin
    raise WeightsError(
        f"{file}: the tensors' names ({shorten(tuple(tensors))}) are not of "
        + ", ".join(origin.title for origin in ORIGINS)
    )


def check_layout(
    model: keras.Model, origin: Origin, tensors: Tensors, file: str, architecture: str | None
) -> None:
    """Check that the model computes what the file's network does.

    Raises:
        WeightsError: it does not, though the tensors might fit.
    """
    layout = layout_of(model)
    if layout is None:
        raise WeightsError(f"{model.name} is not a model of keras_cnns.models")
    differences = origin.differences(tensors, architecture)
    if differences:
        raise WeightsError(
            f"{file} is from a network with {' and '.join(differences)}; "
            "no model of keras_cnns computes that"
        )
    if layout not in origin.layouts:
        fitting = models_that_fit(origin, tensors)
        advice = f"; {' or '.join(fitting)} reads it" if fitting else ""
        raise WeightsError(
            f"{file} is {origin.title}, which {LAYOUTS[origin.layouts[0]]}; "
            f"{model.name} {LAYOUTS[layout]}{advice}"
        )


def places_of(model: keras.Model) -> Iterator[Place]:
    """Yield the places of the model's variables."""
    blocks = blocks_of((layer.name for layer in model.layers), BLOCK)
    for layer in model.layers:
        for variable in layer.weights:
            yield Place(layer.name, variable.name, tuple(variable.shape), blocks)


def invalid_tensors(found: Match, tensors: Tensors) -> list[str]:
    """Return the tensors with numbers that no trained network has, each with what is wrong."""
    invalid = {}
    for place, source, _ in found.values:
        for name in source.names:
            tensor = tensors[name]
            if np.isnan(tensor).any():
                invalid[name] = f"{name} has NaN values"
            elif np.isinf(tensor).any():
                invalid[name] = f"{name} has infinite values"
        name = source.names[0]
        if place.variable == "moving_variance" and (tensors[name] < 0).any():
            invalid.setdefault(name, f"{name} has negative values and is a variance")
    return list(invalid.values())


def about_channels(model: keras.Model, origin: Origin, tensors: Tensors) -> str:
    """Return a hint if the file's network reads images of another number of channels."""
    theirs, ours = origin.channels(tensors), model.input_shape[-1]
    if theirs in (None, ours):
        return ""
    return f", which reads images of {ours} channels where the file's network reads {theirs}"
