"""Callbacks for `fit`, one per file."""

from keras_cnns.training.callbacks.activation_statistics import ActivationStatistics
from keras_cnns.training.callbacks.average_weights import AverageWeights
from keras_cnns.training.callbacks.dead_relu import DeadReLU
from keras_cnns.training.callbacks.diagnostic import Diagnostic
from keras_cnns.training.callbacks.diagnostics_log import DiagnosticsLog
from keras_cnns.training.callbacks.gradient_norm import GradientNorm
from keras_cnns.training.callbacks.learning_rate import LearningRate
from keras_cnns.training.callbacks.lr_finder import LRFinder
from keras_cnns.training.callbacks.probe import Probe
from keras_cnns.training.callbacks.progress import Progress
from keras_cnns.training.callbacks.resume import Resume
from keras_cnns.training.callbacks.save_best import SaveBest
from keras_cnns.training.callbacks.save_history import SaveHistory
from keras_cnns.training.callbacks.step_time import StepTime
from keras_cnns.training.callbacks.stop_at_step import StopAtStep
from keras_cnns.training.callbacks.stop_on_divergence import StopOnDivergence
from keras_cnns.training.callbacks.stop_on_signal import StopOnSignal
from keras_cnns.training.callbacks.tensorboard import TensorBoard
from keras_cnns.training.callbacks.unfreeze import Unfreeze
from keras_cnns.training.callbacks.update_ratio import UpdateRatio

__all__ = [
    "ActivationStatistics",
    "AverageWeights",
    "DeadReLU",
    "Diagnostic",
    "DiagnosticsLog",
    "GradientNorm",
    "LRFinder",
    "LearningRate",
    "Probe",
    "Progress",
    "Resume",
    "SaveBest",
    "SaveHistory",
    "StepTime",
    "StopAtStep",
    "StopOnDivergence",
    "StopOnSignal",
    "TensorBoard",
    "Unfreeze",
    "UpdateRatio",
]
