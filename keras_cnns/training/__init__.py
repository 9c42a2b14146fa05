"""From a recipe to a run directory, and back from one."""

from keras_cnns.training.compiling import build_model
from keras_cnns.training.evaluation import evaluate, predict
from keras_cnns.training.run import Run, RunError, open_run
from keras_cnns.training.trainer import train

__all__ = ["Run", "RunError", "build_model", "evaluate", "open_run", "predict", "train"]
