"""Convolution whose gradients on a CPU are as fast as its forward pass."""

from typing import Any

import keras

from keras_cnns.models import cpu_kernels


@keras.saving.register_keras_serializable("keras_cnns")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, with faster gradients for training with TensorFlow on a CPU.

    Outside training, on GPUs, on other backends, and with groups or dilation, it behaves like
    Keras' layer.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Compute [N, H, W, C] -> [N, H/stride, W/stride, filters]."""
        if not (training and cpu_kernels.has_fast_gradients(self)):
            return super().call(inputs)
        outputs = cpu_kernels.convolve(inputs, self.kernel, self.strides, self.padding)
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs)
