"""The serving graph as a Keras model, for Keras' own `model.export`."""

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
    served.export(str(path), format=format, input_signature=signature, verbose=False)
