"""Images and labels: any TensorFlow Datasets name, and the built-in `digits`."""

from keras_cnns.data.images import read_image
from keras_cnns.data.loading import load_split, open_split, read_labels
from keras_cnns.data.pipeline import Split
from keras_cnns.data.preprocessing import preprocess

__all__ = ["Split", "load_split", "open_split", "preprocess", "read_image", "read_labels"]
