"""From a recipe to a run directory, and back from one."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_cnns.runs.evaluation import evaluate, find_split, predict
    from keras_cnns.runs.run import Run, RunError, open_run
    from keras_cnns.training.compiling import build_model
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

# Imported when asked for: the data bring TensorFlow, and the callbacks below do without.
MODULES = {
    "keras_cnns.runs.evaluation": ("evaluate", "find_split", "predict"),
    "keras_cnns.runs.run": ("Run", "RunError", "open_run"),
    "keras_cnns.training.compiling": ("build_model",),
    "keras_cnns.training.trainer": ("train",),
}


def __getattr__(name: str) -> Any:
    for module, names in MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
