"""Convert a checkpoint of any origin to a file of this project."""

import tempfile
from pathlib import Path

import keras

from keras_cnns.files import flush, naming_the_file
from keras_cnns.registry import build, find
from keras_cnns.weights.assignment import Report, load_tensors, recognize
from keras_cnns.weights.errors import WeightsError
from keras_cnns.weights.files import read_checkpoint
from keras_cnns.weights.own_file import ORIGINS as OWN

_SUFFIXES = (".weights.h5", ".keras")


def convert(file: Path | str, name: str, to: Path | str, *, aux_heads: bool = False) -> Report:
    """Convert a file of any origin to a file of one of our models.

    The model has as many classes and channels as the file. If the file has no classifier, the model
    has none either. A model that is saved as a `.keras` file has inputs of the paper's image size.

    Args:
        file: a file in a format that `keras_cnns.weights.read` accepts.
        name: a key of MODELS.
        to: the file to write: `.weights.h5`, or `.keras` for the whole model. It is written to a
            temporary directory and renamed into place.
        aux_heads: whether to convert GoogLeNet's auxiliary heads too.

    Raises:
        ValueError: there is no such model, or `to` has another suffix.
        WeightsError: `keras_cnns.weights.load` would reject the file, the file lacks the auxiliary
            heads to convert, or a `.keras` file of this project would become a `.keras` file.
    """
    target = Path(to)
    if not target.name.endswith(_SUFFIXES):
        raise ValueError(f"{target}: it must end in {' or '.join(_SUFFIXES)}")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: there is no directory {target.parent}")
    size = find(name).row.image_size
    tensors, architecture = read_checkpoint(file)
    origin, tensors = recognize(tensors, str(file))
    if origin in OWN and {Path(file).suffix, target.suffix} == {".keras"}:
        raise WeightsError(
            f"{file} is a model of keras-cnns already, whose image size and normalisation would be "
            "lost; load it with keras_cnns.load_model"
        )
    channels = origin.channels(tensors) or 3
    bias = tensors.get(origin.classifier)
    model = build(
        name,
        input_shape=(size, size, channels),
        classes=None if bias is None else bias.size,
        include_top=bias is not None,
        aux_heads=aux_heads,
    )
    report = load_tensors(model, tensors, str(file), architecture)
    if report.new_heads:
        raise WeightsError(
            f"{file} does not have the auxiliary heads {', '.join(report.new_heads)}, or they have "
            "another number of classes than the main classifier; convert the file without "
            "auxiliary heads"
        )
    _write(model, target)
    return report


def _write(model: keras.Model, target: Path) -> None:
    """Save a model or its weights atomically, so that no reader finds an incomplete file."""
    # Write into a new directory, since another process may be converting to the same target.
    with (
        naming_the_file(target),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".converted-") as beside,
    ):
        partial = Path(beside) / target.name
        if target.name.endswith(".weights.h5"):
            model.save_weights(partial)
        else:
            model.save(partial)
        flush(partial)
        partial.replace(target)
