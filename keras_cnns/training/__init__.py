"""From a recipe to a run directory, and back from one."""

from keras_cnns.training.run import Run, RunError, open_run
from keras_cnns.training.trainer import build_model, evaluate, predict, train

__all__ = ["Run", "RunError", "build_model", "evaluate", "open_run", "predict", "train"]
