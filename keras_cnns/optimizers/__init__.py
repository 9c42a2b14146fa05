"""Optimizers: gradient descent with momentum, LARS for large batches, and their schedules."""

from keras_cnns.optimizers.lars import LARS
from keras_cnns.optimizers.momentum import Momentum
from keras_cnns.optimizers.schedules import ConstantWarmUp, OneCycle, WarmUp

__all__ = ["LARS", "ConstantWarmUp", "Momentum", "OneCycle", "WarmUp"]
