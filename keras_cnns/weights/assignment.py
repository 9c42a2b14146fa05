"""Load a file's tensors into a model after checking all of them."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_cnns.weights import keras_applications, own_file, torch_checkpoint
from keras_cnns.weights.checkpoint import Architecture, Tensors
from keras_cnns.weights.errors import WeightsError, shorten
from keras_cnns.weights.files import read_checkpoint
from keras_cnns.weights.matching import Match, head_of, match, models_that_fit
from keras_cnns.weights.origin import LAYOUTS, Origin, layout_of
from keras_cnns.weights.structure import ModelVariable, variables_of

logger = logging.getLogger(__name__)

_ORIGINS: tuple[Origin, ...] = (
    *torch_checkpoint.ORIGINS,
    *keras_applications.ORIGINS,
    *own_file.ORIGINS,
)
# Prefixes of names: torch's wrappers, and attributes in which training code stores its network.
_PREFIXES = r"((module|_orig_mod|model|backbone|net)\.)+"
_AVERAGED = "n_averaged"  # the counter of torch.optim.swa_utils.AveragedModel


@dataclass(frozen=True)
class Report:
    """The result of `load`."""

    origin: str  # a description of the file's origin
    tensors: int  # number of tensors of the file that were assigned
    parameters: int  # number of trainable parameters of the model that came from the file
    # Names of the file's tensors that belong to heads that the model lacks.
    ignored_heads: tuple[str, ...]
    # Classifiers (`logits`, `logits_aux1`, `logits_aux2`) and whole heads (`aux1`, `aux2`)
    # that kept their initial values.
    new_heads: tuple[str, ...]


def load(model: keras.Model, file: Path | str) -> Report:
    """Load the weights of a file into a model.

    A classifier keeps its initial values if the file has no classifier, or a classifier with
    another number of classes. An auxiliary head keeps its initial values if the file lacks the
    head. One logged warning names all classifiers and heads that keep their initial values. Heads
    of the file that the model lacks are ignored.

    Args:
        model: a model of `keras_cnns.models`, with any number of channels and classes.
        file: a file of any known origin, in a format that `read` accepts.

    Raises:
        WeightsError: the file cannot be read; the file's network computes another function than
            the model; a tensor is missing, surplus or has the wrong shape; or a tensor has NaN,
            infinite values or, in a variance, negative values. The model is then unchanged.
    """
    tensors, architecture = read_checkpoint(file)
    return load_tensors(model, tensors, str(file), architecture)


def load_tensors(
    model: keras.Model, tensors: Tensors, file: str, architecture: Architecture | None = None
) -> Report:
    """Load the tensors that `read` returned into a model, as `load` does.

    Args:
        model: a model of `keras_cnns.models`.
        tensors: name in the file -> tensor.
        file: the file's name in messages.
        architecture: the name of the file's architecture, if any.
    """
    origin, tensors = recognize(tensors, file)
    _check_layout(model, origin, tensors, file, architecture)
    variables = _variables_of_model(model)
    found = match(variables, origin, tensors)
    if not found.fits:
        hint = _about_channels(model, origin, tensors)
        if not hint and (others := _other_models_that_fit(model, origin, tensors)):
            hint = f" ({' or '.join(others)} can load it)"
        raise WeightsError(
            f"{file} does not fit {model.name}{hint}",
            missing=found.missing,
            surplus=found.surplus,
            misshaped=found.misshaped,
        )
    invalid = _invalid_tensors(found, tensors)
    if invalid:
        raise WeightsError(f"{file} is damaged", invalid=invalid)
    parameters = 0
    for key, _, value in found.values:
        variables[key].assign(value)
        parameters += value.size if variables[key].trainable else 0
    if found.new_heads:
        logger.warning("%s: %s", file, _about_new_heads(found.new_heads))
    assigned = {name for _, needs, _ in found.values for name in needs.names}
    return Report(
        origin.title,
        len(assigned),
        parameters,
        tuple(found.ignored_heads),
        tuple(sorted(found.new_heads)),
    )


def recognize(tensors: Tensors, file: str) -> tuple[Origin, Tensors]:
    """Return a file's origin, and its tensors under the names that the rules of the origin expect.

    Raises:
        WeightsError: the origin is unknown, or two tensors have the same name.
    """
    tensors = _without_prefix(tensors, file)
    origin = find_origin(tensors, file)
    return origin, origin.without_synonyms(tensors)


def _without_prefix(tensors: Tensors, file: str) -> Tensors:
    """Return name -> tensor, after removing the prefixes of wrappers from the names.

    All _PREFIXES at the beginning of a name are removed, in any order. Names may have different
    prefixes, because a head may be outside the backbone, as in `backbone.conv1.weight` and
    `fc.weight`.

    Raises:
        WeightsError: without prefixes, two tensors have the same name, for instance because the
            file contains two networks.
    """
    found: Tensors = {}
    originals: dict[str, str] = {}
    for original, tensor in tensors.items():
        name = re.sub(f"^{_PREFIXES}", "", original)
        if name in originals:
            raise WeightsError(
                f"{file} has {name} twice, as {originals[name]} and as {original}: "
                "keep the tensors of one network only"
            )
        if name != _AVERAGED:
            found[name], originals[name] = tensor, original
    return found


def find_origin(tensors: Tensors, file: str) -> Origin:
    """Return the origin whose signature matches the name of a tensor.

    Raises:
        WeightsError: there is no such origin.
    """
    for origin in _ORIGINS:
        if any(re.fullmatch(origin.signature, name) for name in tensors):
            return origin
    raise WeightsError(
        f"{file}: the tensors' names ({shorten(tuple(tensors))}) match none of the known origins: "
        + ", ".join(origin.title for origin in _ORIGINS)
    )


def _check_layout(
    model: keras.Model,
    origin: Origin,
    tensors: Tensors,
    file: str,
    architecture: Architecture | None,
) -> None:
    """Check that the model computes the same function as the file's network.

    Raises:
        WeightsError: the file's network computes another function, though its tensors may fit.
    """
    layout = layout_of(model)
    if layout is None:
        raise WeightsError(f"{model.name} is not a model of keras_cnns.models")
    differences = origin.differences(tensors, architecture)
    if differences:
        raise WeightsError(
            f"{file} is from a network with {' and '.join(differences)}; "
            "keras_cnns has no such model"
        )
    if layout not in origin.layouts:
        fitting = models_that_fit(origin, tensors)
        advice = f"; {' or '.join(fitting)} can load it" if fitting else ""
        raise WeightsError(
            f"{file} contains {origin.title}, which {LAYOUTS[origin.layouts[0]]}; "
            f"{model.name} {LAYOUTS[layout]}{advice}"
        )


def _variables_of_model(model: keras.Model) -> dict[ModelVariable, keras.Variable]:
    return {
        ModelVariable(layer.name, variable.name, tuple(variable.shape)): variable
        for layer in model.layers
        for variable in layer.weights
    }


def _other_models_that_fit(model: keras.Model, origin: Origin, tensors: Tensors) -> list[str]:
    """Return the names of the models that can load these tensors and have another body.

    The body is the network without its heads. A model with the same body would not fit either, for
    the same reason.
    """
    body = {variable for variable in _variables_of_model(model) if not head_of(variable)}
    channels = model.input_shape[-1]
    return [
        name
        for name in models_that_fit(origin, tensors)
        if body != set(variables_of(name, channels))
    ]


def _about_new_heads(new_heads: Mapping[str, str]) -> str:
    """Return a sentence on the heads that keep their initial values, grouped by the reason."""
    heads_by_reason: dict[str, list[str]] = {}
    for head in sorted(new_heads):
        heads_by_reason.setdefault(new_heads[head], []).append(head)
    return "; ".join(
        f"{', '.join(heads)} {'keeps its' if len(heads) == 1 else 'keep their'} initial values, "
        f"because {reason}"
        for reason, heads in heads_by_reason.items()
    )


def _invalid_tensors(found: Match, tensors: Tensors) -> list[str]:
    """Return descriptions of tensors with numbers that a trained network cannot have."""
    invalid = {}
    for variable, needs, _ in found.values:
        for name in needs.names:
            tensor = tensors[name]
            if np.isnan(tensor).any():
                invalid[name] = f"{name} has NaN values"
            elif np.isinf(tensor).any():
                invalid[name] = f"{name} has infinite values"
        name = needs.names[0]
        if variable.name == "moving_variance" and (tensors[name] < 0).any():
            invalid.setdefault(name, f"{name} is a variance, but has negative values")
    return list(invalid.values())


def _about_channels(model: keras.Model, origin: Origin, tensors: Tensors) -> str:
    """Return a hint if the file's network takes images with another number of channels."""
    theirs, ours = origin.channels(tensors), model.input_shape[-1]
    if theirs in (None, ours):
        return ""
    return f", which reads images of {ours} channels where the file's network reads {theirs}"
