"""Keras image classifiers as SavedModel and ONNX in one model repository, proven equal.

`export(model, to="models/NAME", labels=[...])` takes any Keras model in memory and
`export_run(run, to="models/NAME")` a run directory of `keras-cnns train`; both return the path of
the version that they published.

The names are loaded when they are first used: the command line answers `--help` and a misspelt
format without waiting for TensorFlow.
"""

from typing import TYPE_CHECKING, Any

from keras_cnns_export.errors import ExportError

if TYPE_CHECKING:
    from keras_cnns_export.exporter import export, export_run

__all__ = ["ExportError", "export", "export_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_cnns_export import exporter

    return getattr(exporter, name)
