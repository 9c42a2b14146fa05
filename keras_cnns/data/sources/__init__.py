"""Sources of labelled images, one for each kind of data set that a recipe can name."""

from collections.abc import Callable

from keras_cnns.data.sources.base import Source
from keras_cnns.data.sources.folder import Folder
from keras_cnns.data.sources.folds import Folds
from keras_cnns.data.sources.idx import IdxSource
from keras_cnns.data.sources.shapes import Shapes
from keras_cnns.data.sources.tfds import TfdsSource
from keras_cnns.recipes import DataConfig

_SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "folder": Folder,
    "idx": IdxSource,
    "shapes": Shapes,
}


def open_source(config: DataConfig) -> Source:
    """Open a recipe's data set; a name that is not in the table, such as `digits`, belongs to TFDS.

    Raises:
        ValueError: a folder is missing, has no class, or its layout is unclear.
    """
    source = _SOURCES.get(config.name, TfdsSource)(config)
    return Folds(source, config) if config.fold else source
