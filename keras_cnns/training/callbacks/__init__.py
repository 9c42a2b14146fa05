"""What happens between the steps of `fit`, one callback a file."""

from keras_cnns.training.callbacks.average_weights import AverageWeights
from keras_cnns.training.callbacks.save_best import SaveBest

__all__ = ["AverageWeights", "SaveBest"]
