"""Check the initial weights of a training before its slow parts begin."""

from pathlib import Path

from keras_cnns.messages import print_message
from keras_cnns.models import MODELS
from keras_cnns.recipes import DataConfig, Recipe
from keras_cnns.weights import WeightsError, pretrained
from keras_cnns.weights.download import fetch
from keras_cnns.weights.pretrained import Pretrained

# Maximum difference between the recipe's and the published mean or standard deviation, in levels
# from 0 to 255. Publishers round these values differently.
_TOLERANCE = 0.5


def check_initial_weights(recipe: Recipe) -> None:
    """Check that a recipe's initial weights exist, and download them if they are published.

    A recipe with published weights also has to contain the normalisation with which the weights
    were trained, so that the recipe describes the training completely. If the size of the images is
    not that of the published evaluation, a message is printed.

    Raises:
        ValueError: there are no published weights of this name for the model, or the recipe has
            another normalisation; the message contains the values to set.
        WeightsError: there is no such file, or the weights cannot be downloaded (DownloadError).
    """
    weights, data = recipe.model.weights, recipe.data
    if not weights or recipe.model.name not in MODELS:
        return
    if not pretrained.is_name(weights):
        if not Path(weights).is_file():
            raise WeightsError(f"model.weights: there is no file {weights}")
        return
    row = pretrained.find(weights, recipe.model.name)
    if not _normalises_as(data, row):
        mean, std = [*row.mean], [*row.std]
        raise ValueError(
            f"data.mean = {[*data.mean]} and data.std = {[*data.std]} do not fit the weights "
            f"{row.name}, which were trained on RGB with mean = {mean} and std = {std}: use "
            f'--set data.channels=3 --set "data.mean={mean}" --set "data.std={std}"'
        )
    expected = (row.crop, row.resize or data.resize_shorter)
    if (data.image_size, data.resize_shorter) != expected:
        print_message(
            f"the weights {row.name} were evaluated with image_size = {expected[0]} and "
            f"resize_shorter = {expected[1]}; the recipe has {data.image_size} and "
            f"{data.resize_shorter}"
        )
    fetch(row)


def _normalises_as(data: DataConfig, row: Pretrained) -> bool:
    found, expected = (*data.mean, *data.std), (*row.mean, *row.std)
    return len(found) == len(expected) and all(
        abs(one - other) <= _TOLERANCE for one, other in zip(found, expected, strict=True)
    )
