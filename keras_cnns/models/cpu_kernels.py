"""TensorFlow's fast CPU kernels: convolution with its gradients, batch normalisation, and LRN.

The layers `Conv2D`, `BatchNormalization` and `LocalResponseNormalization` each call these kernels
in one branch. On other backends, the layers are composed of Keras' operations.

A convolution is a sum over the positions of its window: y = sum_ij x_ij W_ij, where x_ij are the
pixels of the map that are multiplied by W_ij. The gradient of W_ij is therefore a matrix product,
x_ij^T dy. With stride 1 and 'same' padding, the gradient of x is again a convolution: dy is
convolved with a kernel that is rotated by 180 degrees and has its input and output channels
exchanged. TensorFlow also has special operations for both gradients; the functions here choose the
faster computation.
"""

from typing import Any

import keras

from keras_cnns.cores import has_avx512
from keras_cnns.replicas import ReplicaPart, current_part

# Window size -> maximum number of output pixels up to which the gradient of a kernel is computed
# faster by matrix products than by Conv2DBackpropFilter. With the shapes of ResNet-50 and
# GoogLeNet, the matrix products took 0.3 to 0.9 of the time of this operation.
MAX_POSITIONS_FOR_MATMUL = {(1, 1): 28 * 28, (3, 3): 7 * 7, (5, 5): 7 * 7}


def has_fast_gradients(layer: keras.layers.Conv2D) -> bool:
    """Return whether `convolve` can compute a layer and this process trains on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return (
        layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
        # With strides, x_ij is a strided slice of the map only if there is no padding.
        and (layer.strides == (1, 1) or layer.padding == "valid" or layer.kernel_size == (1, 1))
        and all(size % 2 == 1 for size in layer.kernel_size)
        and not tf.config.list_logical_devices("GPU")
    )


def convolve(x: Any, kernel: Any, strides: tuple[int, int], padding: str) -> Any:
    """Convolve as `tf.nn.conv2d`: [N, H, W, C] -> [N, H/stride, W/stride, filters].

    Args:
        x: the feature map.
        kernel: [height, width, C, filters].
        strides: strides of rows and columns.
        padding: `same` or `valid`.
    """
    import tensorflow as tf

    padding = padding.upper()

    @tf.custom_gradient
    def function(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        y = tf.nn.conv2d(x, kernel, strides, padding)

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return (
                _gradient_of_input(x, kernel, dy, strides, padding),
                _gradient_of_kernel(x, kernel, dy, strides, padding),
            )

        return y, gradient

    # Convert the kernel to a tensor, because custom_gradient passes variables to the gradient
    # separately.
    return function(x, tf.convert_to_tensor(kernel))


def _gradient_of_input(x: Any, kernel: Any, dy: Any, strides: tuple[int, int], padding: str) -> Any:
    import tensorflow as tf

    # Without AVX-512, Conv2DBackpropInput takes two to six times as long as a forward pass.
    if strides == (1, 1) and padding == "SAME" and not has_avx512():
        rotated = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
        return tf.nn.conv2d(dy, rotated, 1, "SAME")
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
    max_positions = MAX_POSITIONS_FOR_MATMUL.get(window, 0)
    # In float32, the matrix product of a 1x1 convolution is faster for maps of any size.
    any_size = window == (1, 1) and dy.dtype == tf.float32
    if None in (height, width) or (height * width > max_positions and not any_size):
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
            rows = tf.reshape(subsample(seen, strides), [-1, x.shape[-1]])
            products.append(tf.matmul(rows, columns, transpose_a=True))
    return tf.reshape(tf.stack(products), kernel.shape)


def subsample(x: Any, strides: int | tuple[int, int]) -> Any:
    """Keep every `stride`-th pixel: [N, H, W, C] -> [N, ceil(H/stride), ceil(W/stride), C].

    On every backend, the result is computed as an average over 1x1 windows, which is exact. A
    strided slice and its gradient would be computed in a single thread by TensorFlow.
    """
    if strides in (1, (1, 1)):
        return x
    return keras.ops.average_pool(
        x, 1, strides=strides, padding="valid", data_format="channels_last"
    )


def has_fused_batch_norm(layer: keras.layers.BatchNormalization, inputs: Any, mask: Any) -> bool:
    """Return whether `fused_batch_norm` can compute a layer for these inputs."""
    return (
        keras.backend.backend() == "tensorflow"
        and len(inputs.shape) == 4
        and layer.axis in (-1, 3)
        and layer.scale
        and layer.center
        and mask is None
        and not layer.synchronized
        and not getattr(layer, "renorm", False)
        and layer.variable_dtype == "float32"
    )


def fused_batch_norm(layer: keras.layers.BatchNormalization, inputs: Any, training: bool) -> Any:
    """Normalise [N, H, W, C] like the layer, with one kernel; in training, update the statistics.

    The running variance is not the same as in Keras' layer. Here it accumulates the unbiased
    variance of a batch, divided by n - 1, as in torch; in Keras' layer it accumulates the biased
    variance, divided by n.

    On several replicas, the statistics are those of the whole batch: see `keras_cnns.replicas`.
    """
    import tensorflow as tf

    if training and (part := current_part()):
        return _normalise_on_replicas(layer, inputs, part)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=layer.gamma.value,
        offset=layer.beta.value,
        mean=layer.moving_mean.value,
        variance=layer.moving_variance.value,
        epsilon=layer.epsilon,
        exponential_avg_factor=1.0 - layer.momentum,
        is_training=training,
    )
    if training:
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
    return y


def _normalise_on_replicas(
    layer: keras.layers.BatchNormalization, inputs: Any, part: ReplicaPart
) -> Any:
    """Normalise a part of a batch, [N, H, W, C], by the statistics of the whole batch."""
    import tensorflow as tf

    x = tf.cast(inputs, layer.variable_dtype)
    own = tf.stack(tf.nn.moments(x, [0, 1, 2]))
    # The moments of all parts, which have equally many images.
    means, variances = tf.unstack(part.gather(own), axis=1)
    mean = tf.reduce_mean(means, axis=0)
    variance = tf.reduce_mean(variances + tf.math.squared_difference(means, mean), axis=0)
    y = tf.nn.batch_normalization(
        x, mean, variance, layer.beta.value, layer.gamma.value, layer.epsilon
    )
    count = tf.cast(part.total * tf.reduce_prod(tf.shape(x)[1:3]), x.dtype)
    unbiased = variance * count / tf.maximum(count - 1.0, 1.0)
    for running, value in ((layer.moving_mean, mean), (layer.moving_variance, unbiased)):
        running.assign(running.value + (1.0 - layer.momentum) * (value - running.value))
    return tf.cast(y, inputs.dtype)


def local_response_normalization(x: Any, radius: int, alpha: float, beta: float) -> Any:
    """Return x / (1 + alpha * s)^beta: [N, H, W, C] -> [N, H, W, C].

    s is the sum of x^2 over 2 * radius + 1 channels, with the channel of x in the middle.
    """
    import tensorflow as tf

    # The kernel exists in float32 only.
    y = tf.nn.local_response_normalization(tf.cast(x, tf.float32), radius, 1.0, alpha, beta)
    return tf.cast(y, x.dtype)
