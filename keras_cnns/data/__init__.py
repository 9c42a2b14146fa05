"""Images and labels: TensorFlow Datasets by name, folders, the built-in `digits` and `shapes`."""

from keras_cnns.data.images import read_image
from keras_cnns.data.loading import Splits, fingerprint, load_split, open_split, read_labels
from keras_cnns.data.pipeline import Split
from keras_cnns.data.preprocessing import preprocess

__all__ = [
    "Split",
    "Splits",
    "fingerprint",
    "load_split",
    "open_split",
    "preprocess",
    "read_image",
    "read_labels",
]
