"""Labelled images from TensorFlow Datasets, folders, idx files and the built-in data sets."""

from keras_cnns.data.images import read_image
from keras_cnns.data.pipeline import Split
from keras_cnns.data.preprocessing import preprocess
from keras_cnns.data.splits import Splits, fingerprint, load_split, open_split, read_labels

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
