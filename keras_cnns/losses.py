"""A loss that supports class weights, and can give hard examples more influence."""

from typing import Any

import keras
from keras import ops

from keras_cnns.replicas import current_part

# The minimum of a probability in the logarithm. With Keras' 1e-7, images whose class has a lower
# probability would have no gradient; this happens to images of rare classes at the beginning of a
# training.
_MIN_PROBABILITY = 1e-30
# Minimum of 1 - p: if gamma is below 1, the slope of (1 - p)^gamma is infinite at p = 1.
_MIN_MODULATION = 1e-7


@keras.saving.register_keras_serializable("keras_cnns")
class FocalCrossentropy(keras.losses.Loss):
    """The focal loss of weighted targets: targets [N, K], probabilities [N, K] -> [].

    ```
    sum over images and classes of  -t * (1 - p)^gamma * log(p), divided by the sum of t
    ```

    The sum of a row of the targets t is the weight of its image. The loss is the weighted mean over
    the images of a batch, as in `torch.nn.CrossEntropyLoss(weight=...)`: an image with a large
    weight has more influence on the direction of a step, but does not make the step larger. With
    gamma 0 the loss is the cross-entropy. `keras.losses.CategoricalCrossentropy` assumes that each
    row sums to 1, and on TensorFlow its gradient is wrong for other rows.

    >>> loss = FocalCrossentropy(gamma=2.0)
    >>> round(float(loss([[0.0, 3.0]], [[0.5, 0.5]])), 4)  # 0.25 * log(2)
    0.1733

    Args:
        gamma: the exponent, at least 0; 2 is usual.
        name: the name of the loss.
        options: `reduction` and `dtype`, as for any loss of Keras.

    Raises:
        ValueError: `gamma` is below 0.

    References:
        Lin et al. 2017, Focal loss for dense object detection (arXiv:1708.02002), equation 4,
        applied to each class of a softmax.
    """

    def __init__(
        self, gamma: float = 0.0, name: str = "focal_crossentropy", **options: Any
    ) -> None:
        super().__init__(name=name, **options)
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}; it must be at least 0")
        self.gamma = gamma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the weighted losses of the images, for weights scaled to mean 1: [N, K] -> [N]."""
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.cast(y_true, y_pred.dtype)
        losses = -y_true * ops.log(ops.maximum(y_pred, _MIN_PROBABILITY))
        if self.gamma:
            losses *= ops.power(ops.maximum(1.0 - y_pred, _MIN_MODULATION), self.gamma)
        mean_weight = ops.mean(ops.sum(y_true, axis=-1))
        if part := current_part():
            mean_weight = ops.mean(part.gather(mean_weight))
        # If all weights of a batch are 0, so are its losses.
        return ops.sum(losses, axis=-1) / ops.where(mean_weight > 0, mean_weight, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        return {**super().get_config(), "gamma": self.gamma}
