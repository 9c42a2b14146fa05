"""Convolution whose training step on a CPU runs at the speed of its forward pass."""

import functools
from pathlib import Path
from typing import Any

import keras

# From this many positions of the output on, TensorFlow's kernel for the filter's gradient is the
# faster one, by the window: measured on ResNet-50's and GoogLeNet's shapes. Below, it has too
# little to sum over, and the product of two matrices takes 0.3 to 0.9 of its time.
POSITIONS_OF_A_PRODUCT = {(1, 1): 28 * 28, (3, 3): 7 * 7, (5, 5): 7 * 7}


@keras.saving.register_keras_serializable("keras_cnns")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, with gradients that are written as what a CPU is fast at.

    A convolution is a sum over its window: y = sum_ij x_ij W_ij, where x_ij is the map as the
    window's position ij sees it. So the gradient of W_ij is the product of two matrices,
    x_ij^T dy, and with stride 1 and 'same' padding that of x is a convolution again: of dy, with
    the kernel turned by 180 degrees and its channels exchanged. TensorFlow has kernels of its own
    for both; each is used where it is the faster. On GPUs, on other backends, with groups or
    dilation and outside of training this class is Keras' layer.
    """

    def _has_own_gradient(self) -> bool:
        if keras.backend.backend() != "tensorflow":
            return False
        import tensorflow as tf

        return (
            self.dilation_rate == (1, 1)
            and self.groups == 1
            and self.data_format == "channels_last"
            # A filter's position sees the map at once only where no padding has to be added.
            and (self.strides == (1, 1) or self.padding == "valid" or self.kernel_size == (1, 1))
            and all(size % 2 == 1 for size in self.kernel_size)
            and not tf.config.list_logical_devices("GPU")
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """[N, H, W, C] -> [N, H/stride, W/stride, filters]."""
        if not (training and self._has_own_gradient()):
            return super().call(inputs)
        outputs = _convolve(inputs, self.kernel, self.strides, self.padding.upper())
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs)


def _convolve(x: Any, kernel: Any, strides: tuple[int, int], padding: str) -> Any:
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        y = tf.nn.conv2d(x, kernel, strides, padding)

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return (
                _gradient_of_input(x, kernel, dy, strides, padding),
                _gradient_of_kernel(x, kernel, dy, strides, padding),
            )

        return y, gradient

    # A variable would have to be named to the gradient; its value is a plain argument.
    return convolve(x, tf.convert_to_tensor(kernel))


def _gradient_of_input(x: Any, kernel: Any, dy: Any, strides: tuple[int, int], padding: str) -> Any:
    import tensorflow as tf

    if strides == (1, 1) and padding == "SAME" and not _has_avx512():
        turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
        return tf.nn.conv2d(dy, turned, 1, "SAME")
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x),
        filter=kernel,
        out_backprop=dy,
        strides=[1, *strides, 1],
        padding=padding,
    )


def _gradient_of_kernel(
    x: Any, kernel: Any, dy: Any, strides: tuple[int, int], padding: str
) -> Any:
    import tensorflow as tf

    _, height, width, _ = dy.shape
    window = tuple(kernel.shape[:2])
    most = POSITIONS_OF_A_PRODUCT.get(window, 0)
    # In float32 the kernel is behind on the largest maps too.
    is_wide = window == (1, 1) and dy.dtype == tf.float32
    if None in (height, width) or (height * width > most and not is_wide):
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x,
            filter_sizes=tf.shape(kernel),
            out_backprop=dy,
            strides=[1, *strides, 1],
            padding=padding,
        )
    if padding == "SAME" and window != (1, 1):
        x = tf.pad(x, [[0, 0], *([size // 2, size // 2] for size in window), [0, 0]])
    last_row, last_column = ((n - 1) * s for n, s in zip((height, width), strides, strict=True))
    columns = tf.reshape(dy, [-1, dy.shape[-1]])
    products = []
    for i in range(window[0]):
        for j in range(window[1]):
            seen = x[:, i : i + last_row + 1, j : j + last_column + 1]
            seen = subsample(seen, strides)
            rows = tf.reshape(seen, [-1, x.shape[-1]])
            products.append(tf.matmul(rows, columns, transpose_a=True))
    return tf.reshape(tf.stack(products), kernel.shape)


def subsample(x: Any, strides: int | tuple[int, int]) -> Any:
    """Keep every `strides`-th position: [N, H, W, C] -> [N, ceil(H/stride), ceil(W/stride), C].

    A mean over windows of one position, which is exact; strided slices are TensorFlow's one
    single-threaded way to copy a map, and their gradient another.
    """
    if strides in (1, (1, 1)):
        return x
    return keras.ops.average_pool(
        x, 1, strides=strides, padding="valid", data_format="channels_last"
    )


@functools.cache
def _has_avx512() -> bool:
    """Whether this CPU has AVX-512; without, the kernel for the input's gradient is slow.

    It then takes two to six times as long as a forward pass of the same size.
    """
    try:
        return "avx512f" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:  # another system than Linux
        return False
