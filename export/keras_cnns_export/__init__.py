"""Export Keras image classifiers to SavedModel, ONNX and others, after a comparison with Keras.

`export(model, to="models/NAME", labels=[...])` takes any Keras model in memory. `export_run(run,
to="models/NAME")` takes a run directory of `keras-cnns train`. Both return the path of the
published version. `ExportOptions` documents their options.

Both functions are imported when they are first used, so that the command line prints its help, or
rejects a misspelt format, without waiting for TensorFlow.
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
