"""Dropout (Srivastava et al. 2014) whose mask does not depend on the number of devices."""

from typing import Any

import keras

from keras_cnns.replicas import current_part


@keras.saving.register_keras_serializable("keras_cnns")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout`, which on several replicas draws one mask for the whole batch.

    With Keras' layer, each replica would draw the same mask for its part. Outside of
    `keras_cnns.replicas.part_of_batch`, this class behaves like Keras' layer.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Compute [N, ...] -> [N, ...]."""
        part = current_part()
        if part is None or not training:
            return super().call(inputs, training=training)
        return part.select(super().call(part.place(inputs), training=True))
