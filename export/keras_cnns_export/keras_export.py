"""The serving graph as a Keras model, for Keras' own `model.export`."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_cnns_export.graph import ServingGraph


def export_by_keras(graph: "ServingGraph", path: Path, format: str) -> None:  # noqa: A002
    """Write `path` by `keras.Model.export`: `images` uint8 [N, H, W, C] -> named outputs."""
    import keras
    import tensorflow as tf

    class Served(keras.Model):
        """Holds the network, whose variables the export tracks, and answers as the graph does."""

        def __init__(self) -> None:
            super().__init__()
            self.network = graph.network

        def call(self, images: Any) -> Any:
            return graph.function(images)

    served = Served()
    served(tf.zeros((1, *graph.image_shape), tf.uint8))  # Keras exports what has been called
    signature = list(graph.function.input_signature)
    with _root_logger_kept():
        served.export(str(path), format=format, input_signature=signature, verbose=False)


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    """OpenVINO's converter makes the root logger its own, and silences its caller's warnings."""
    root = logging.getLogger()
    level, filters, handlers = root.level, [*root.filters], [*root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers
