"""Convolution whose training step on a CPU runs at the speed of its forward pass."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_cnns")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, with the gradient of its input written as a convolution.

    The gradient of a convolution with stride 1 and 'same' padding is a convolution again: of the
    output's gradient, with the kernel turned by 180 degrees and its channels exchanged. TensorFlow
    has a kernel of its own for it, which on CPUs without AVX-512 takes two to six times as long as
    a forward pass of the same size. On GPUs, on other backends, with other strides and outside of
    training this class is Keras' layer.
    """

    def _has_fast_gradient(self) -> bool:
        if keras.backend.backend() != "tensorflow":
            return False
        import tensorflow as tf

        return (
            self.strides == (1, 1)
            and self.dilation_rate == (1, 1)
            and self.groups == 1
            and self.padding == "same"
            and all(size % 2 == 1 for size in self.kernel_size)
            and self.data_format == "channels_last"
            and not tf.config.list_logical_devices("GPU")
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """[N, H, W, C] -> [N, H/stride, W/stride, filters]."""
        if not (training and self._has_fast_gradient()):
            return super().call(inputs)
        outputs = _convolve(inputs, self.kernel)
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs)


def _convolve(x: Any, kernel: Any) -> Any:
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
            of_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=x,
                filter_sizes=tf.shape(kernel),
                out_backprop=upstream,
                strides=[1, 1, 1, 1],
                padding="SAME",
            )
            return tf.nn.conv2d(upstream, turned, 1, "SAME"), of_kernel

        return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient

    # A variable would have to be named to the gradient; its value is a plain argument.
    return convolve(x, tf.convert_to_tensor(kernel))
