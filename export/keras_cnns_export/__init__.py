"""Export Keras image classifiers to SavedModel, ONNX and others, proven equal to Keras.

`export(model, to="models/NAME", labels=[...])` takes any Keras model in memory and
`export_run(run, to="models/NAME")` a run directory of `keras-cnns train`; both return the path of
the version that they published. `ExportOptions` documents their options.

Both are loaded when they are first used, so that the command line answers `--help` and a
misspelt format without waiting for TensorFlow.
"""

from typing import TYPE_CHECKING, Any

from keras_cnns_export.errors import ExportError
from keras_cnns_export.options import ExportOptions, Quantization

if TYPE_CHECKING:
    from keras_cnns_export.exporter import export, export_run

__all__ = ["ExportError", "ExportOptions", "Quantization", "export", "export_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_cnns_export import exporter

    return getattr(exporter, name)
