"""Layers, and functions that apply them, for GoogLeNet and ResNet.

Feature maps are channels last, [N, H, W, C]. Each function takes a tensor, returns a tensor, and
has an argument `name` for the names of its layers. Checkpoints contain these names, which must
therefore not change.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import KerasTensor, ops

from keras_cnns.models import cpu_kernels
from keras_cnns.models.batch_normalization import BatchNormalization
from keras_cnns.models.convolution import Conv2D

# The defaults of Keras are 0.99 and 1e-3. In torch's convention, this momentum is 0.1.
_BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5

ConvStep = Callable[..., KerasTensor]  # (x, filters, kernel_size, *, stride, name) -> activated map


def conv(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    kernel_initializer: Any = None,
    bias_initializer: Any = "zeros",
    name: str,
) -> KerasTensor:
    """Pad a map on every side and convolve it.

    [N, H, W, C] -> [N, H/stride, W/stride, filters]. The padding is explicit, because Caffe and
    torch pad all sides equally. If the stride is 2, and height and width are even, Keras' padding
    'same' adds pixels only at the right and the bottom, which would shift the whole network by half
    a pixel.
    """
    padding = "same"
    if stride > 1:
        padding = "valid"
        if kernel_size > 1:
            x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        groups=groups,
        use_bias=use_bias,
        kernel_initializer=kernel_initializer or _he_normal(),
        bias_initializer=bias_initializer,
        name=name,
    )(x)


def _he_normal() -> keras.initializers.Initializer:
    """Return a normal distribution with variance 2 / fan_out.

    He et al. 2015, "Delving Deep into Rectifiers", equation 14.
    """
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )


def batch_norm(x: KerasTensor, *, epsilon: float = BATCH_NORM_EPSILON, name: str) -> KerasTensor:
    """Normalise each channel over batch and positions (Ioffe and Szegedy 2015)."""
    return BatchNormalization(momentum=_BATCH_NORM_MOMENTUM, epsilon=epsilon, name=name)(x)


def relu(x: KerasTensor, *, name: str) -> KerasTensor:
    """Return max(x, 0)."""
    return keras.layers.Activation("relu", name=name)(x)


def conv_relu(
    x: KerasTensor, filters: int, kernel_size: int, *, stride: int = 1, name: str
) -> KerasTensor:
    """Apply a convolution with bias, then ReLU.

    The initial weights are Glorot's (Caffe's `xavier` divides by the number of inputs alone), and
    the initial biases are 0.2.
    """
    x = conv(
        x,
        filters,
        kernel_size,
        stride=stride,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer=keras.initializers.Constant(0.2),
        name=f"{name}_conv",
    )
    return relu(x, name=f"{name}_relu")


def conv_bn_relu(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    stride: int = 1,
    epsilon: float = BATCH_NORM_EPSILON,
    name: str,
) -> KerasTensor:
    """Apply a convolution without bias, then batch normalisation, then ReLU."""
    x = conv(x, filters, kernel_size, stride=stride, name=f"{name}_conv")
    x = batch_norm(x, epsilon=epsilon, name=f"{name}_bn")
    return relu(x, name=f"{name}_relu")


def max_pool(x: KerasTensor, pool_size: int = 3, *, stride: int = 2, name: str) -> KerasTensor:
    """Max-pool in Caffe's ceil mode: the last window may extend over the right and lower edge.

    For a 3x3 window with stride 2, this equals Keras' padding 'same' if height and width are even
    numbers, and 'valid' if both are odd. If only one of them is even, or if they are unknown, the
    map is padded with zeros. The zeros change no maximum, because the map is the output of a ReLU.
    Along an axis with an odd number of pixels, no window reaches the zeros.
    """
    height, width = x.shape[1:3]
    if stride == pool_size:
        padding = "same"
    elif None in (height, width) or height % 2 != width % 2:
        x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
        padding = "valid"
    else:
        padding = "valid" if height % 2 else "same"
    return keras.layers.MaxPooling2D(pool_size, strides=stride, padding=padding, name=name)(x)


@keras.saving.register_keras_serializable("keras_cnns")
class EdgePadding2D(keras.layers.Layer):
    """Repeat the outermost rows and columns once, as the padding of a max-pool.

    A 3x3 window that extends over the edge also contains the edge itself, so its maximum is the
    maximum of the pixels inside the map. torch and Caffe, which pad with minus infinity, get the
    same result; but minus infinity would spoil the ranges that a quantized export measures.
    """

    def call(self, inputs: Any) -> Any:
        """Compute [N, H, W, C] -> [N, H + 2, W + 2, C]."""
        x = ops.concatenate([inputs[:, :1], inputs, inputs[:, -1:]], axis=1)
        return ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [N, H + 2, W + 2, C]."""
        batch_size, *sizes, channels = input_shape
        return (batch_size, *(size and size + 2 for size in sizes), channels)


@keras.saving.register_keras_serializable("keras_cnns")
class LocalResponseNormalization(keras.layers.Layer):
    """Normalise by the energy of the neighbouring channels: x / (1 + alpha / size * sum x^2)^beta.

    The formula is from Krizhevsky et al. 2012, section 3.3, except that alpha is divided by the
    size of the window, as in Caffe. The layer thus computes the same as the layers of Caffe's model
    bvlc_googlenet.

    Args:
        size: number of channels in the window, an odd number; the channel itself is in the middle.
        alpha: weight of the window's energy.
        beta: exponent.

    Raises:
        ValueError: `size` is even or below 1.
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size is {size}; it must be an odd number of channels, such as 5")
        self.size, self.alpha, self.beta = size, alpha, beta

    def call(self, inputs: Any) -> Any:
        """Compute [N, H, W, C] -> [N, H, W, C]."""
        radius, alpha = self.size // 2, self.alpha / self.size
        if keras.backend.backend() == "tensorflow":
            return cpu_kernels.local_response_normalization(inputs, radius, alpha, self.beta)
        x = ops.cast(inputs, "float32")  # squares overflow in float16
        energy = ops.pad(ops.square(x), ((0, 0), (0, 0), (0, 0), (radius, radius)))
        channels = inputs.shape[-1]
        window = sum(energy[..., i : i + channels] for i in range(self.size))
        return ops.cast(x / ops.power(1.0 + alpha * window, self.beta), inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        config = {"size": self.size, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_cnns")
class IdentityShortcut(keras.layers.Layer):
    """Convert x to the shape of a block's output, without weights (He et al. 2015, option A).

    Every `stride`-th pixel is kept, and zeros fill the new channels, half of which precede and half
    of which follow the channels of x.

    Args:
        filters: number of channels of the output, at least as many as the input has.
        stride: distance between the kept pixels, in pixels.
    """

    def __init__(self, filters: int, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.stride = filters, stride

    def call(self, inputs: Any) -> Any:
        """Compute [N, H, W, C] -> [N, ceil(H/stride), ceil(W/stride), filters]."""
        x = cpu_kernels.subsample(inputs, self.stride)
        new = self.filters - inputs.shape[-1]
        return ops.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [N, ceil(H/stride), ceil(W/stride), filters]."""
        batch_size, *sizes, _ = input_shape
        kept = (None if size is None else -(-size // self.stride) for size in sizes)
        return (batch_size, *kept, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        return {**super().get_config(), "filters": self.filters, "stride": self.stride}
