"""From anybody's file to one of ours."""

import os
import tempfile
from pathlib import Path

import keras

from keras_cnns.models.registry import build, find
from keras_cnns.models.resnet import ARCHITECTURES
from keras_cnns.weights.assignment import Report, find_origin, load_tensors, without_prefix
from keras_cnns.weights.files import read

SUFFIXES = (".weights.h5", ".keras")


def convert(file: Path | str, name: str, to: Path | str, *, aux_heads: bool = False) -> Report:
    """Write a file's weights as the named net's own.

    The net gets the file's number of classes and of channels; without a classifier in the file it
    has none. A `.keras` file has the paper's image size.

    Args:
        file: as `read` takes it.
        name: a key of MODELS.
        to: `.weights.h5`, or `.keras` for the whole net. It is written beside its place and
            renamed into it.
        aux_heads: take GoogLeNet's auxiliary heads along.

    Raises:
        ValueError: there is no such net, or `to` ends otherwise.
        WeightsError: as `load` does.
    """
    target = Path(to)
    if not target.name.endswith(SUFFIXES):
        raise ValueError(f"{target}: it must end in {' or '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: there is no directory {target.parent}")
    find(name)
    tensors = without_prefix(read(file))
    origin = find_origin(tensors, str(file))
    size = ARCHITECTURES[name].input_shape[0] if name in ARCHITECTURES else 224
    stem, bias = tensors.get(origin.stem), tensors.get(origin.classifier)
    channels = stem.shape[origin.channels_axis] if stem is not None and stem.ndim == 4 else 3
    head = {"include_top": False} if bias is None else {"classes": bias.size}
    model = build(name, input_shape=(size, size, channels), aux_heads=aux_heads, **head)
    report = load_tensors(model, tensors, str(file))
    write(model, target)
    return report


def write(model: keras.Model, target: Path) -> None:
    """Save a model or its weights, so that no reader finds half of it."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converted-") as beside:
        partial = Path(beside) / target.name
        if target.name.endswith(".weights.h5"):
            model.save_weights(partial)
        else:
            model.save(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(target)
