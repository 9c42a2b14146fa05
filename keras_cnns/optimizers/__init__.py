"""Optimizers: stochastic gradient descent with momentum."""

from keras_cnns.optimizers.momentum import Momentum

__all__ = ["Momentum"]
