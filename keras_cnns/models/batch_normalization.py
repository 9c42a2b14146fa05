"""Batch normalisation (Ioffe and Szegedy 2015) by TensorFlow's fused kernel where there is one."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnns")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, with one kernel in place of its ten small operations.

    Keras composes the layer from a mean, a variance, a square root and so on, each a pass over the
    feature map and, in training, another one back: a third to a half of a step on a CPU. On
    TensorFlow this class calls `FusedBatchNormV3` for [N, H, W, C] maps; on other backends, other
    axes, masks, synchronized statistics and renormalisation it is Keras' layer.

    The running variance differs: the kernel counts it without bias (n / (n - 1), as torch does),
    Keras' code with it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Scale and statistics stay in float32 under mixed precision: the kernel takes them so.
        self.autocast = False

    def _is_fusible(self, inputs: Any, mask: Any) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and mask is None
            and not self.synchronized
            and not getattr(self, "renorm", False)
            and self.variable_dtype == "float32"
        )

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """[N, H, W, C] -> [N, H, W, C]."""
        inputs = ops.cast(inputs, self.compute_dtype)
        if not self._is_fusible(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        is_training = bool(training and self.trainable)
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=self.moving_mean.value,
            variance=self.moving_variance.value,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum,
            is_training=is_training,
        )
        if is_training:
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return y
