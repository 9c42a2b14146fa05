"""Optimizers: stochastic gradient descent with momentum, and LARS for large batches."""

from keras_cnns.optimizers.lars import LARS
from keras_cnns.optimizers.momentum import Momentum

__all__ = ["LARS", "Momentum"]
