"""Average pooling to an output of fixed size, like torch's AdaptiveAvgPool2d."""

from typing import Any

import keras
from keras import KerasTensor, ops


@keras.saving.register_keras_serializable("keras_cnns")
class AdaptiveAveragePooling2D(keras.layers.Layer):
    """Divide a map of any size into a grid of `size` by `size` windows, and average each one.

    Along an axis of H pixels, window i begins at pixel floor(i H / size) and ends before pixel
    ceil((i + 1) H / size). Windows therefore overlap if H is not a multiple of `size`.

    Args:
        size: number of windows along each axis, at least 1.

    Raises:
        ValueError: `size` is below 1.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 1:
            raise ValueError(f"size is {size}; it must be at least 1")
        self.size = size

    def call(self, inputs: Any) -> Any:
        """Compute [N, H, W, C] -> [N, size, size, C]."""
        rows = [
            ops.mean(inputs[:, start:end], axis=1) for start, end in self._windows(inputs, axis=1)
        ]
        x = ops.stack(rows, axis=1)
        columns = [ops.mean(x[:, :, start:end], axis=2) for start, end in self._windows(x, axis=2)]
        return ops.stack(columns, axis=2)

    def _windows(self, x: Any, axis: int) -> list[tuple[Any, Any]]:
        """Return the start of each window along an axis, and its end, which is exclusive."""
        length = ops.shape(x)[axis]  # a tensor if the input shape contains None
        return [
            (i * length // self.size, -(-(i + 1) * length // self.size)) for i in range(self.size)
        ]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [N, size, size, C]."""
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        return {**super().get_config(), "size": self.size}


def adaptive_average_pool(x: KerasTensor, *, name: str) -> KerasTensor:
    """Pool to 4x4 pixels: [N, H, W, C] -> [N, 4, 4, C]."""
    return AdaptiveAveragePooling2D(4, name=name)(x)
