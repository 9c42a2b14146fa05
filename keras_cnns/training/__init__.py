"""Train the model of a recipe, and use the run directory of the training.

The names are imported when they are first used, because the data sets need TensorFlow and the
callbacks do not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_cnns.runs.evaluation import evaluate, find_split, predict
    from keras_cnns.runs.run import Run, RunError, open_run
    from keras_cnns.training.model import build_model
    from keras_cnns.training.trainer import train

__all__ = [
    "Run",
    "RunError",
    "build_model",
    "evaluate",
    "find_split",
    "open_run",
    "predict",
    "train",
]

_MODULES = {
    "keras_cnns.runs.evaluation": ("evaluate", "find_split", "predict"),
    "keras_cnns.runs.run": ("Run", "RunError", "open_run"),
    "keras_cnns.training.model": ("build_model",),
    "keras_cnns.training.trainer": ("train",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
