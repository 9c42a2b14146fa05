"""Adaptive average pooling covers a map of any size; torch's own values are in `tests/parity`."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cnns.models import build
from keras_cnns.models.adaptive_pooling import AdaptiveAveragePooling2D
from keras_cnns_export import export


def windows(length: int, size: int) -> list[slice]:
    """Return the windows of torch's AdaptiveAvgPool2d along one side."""
    return [
        slice(math.floor(i * length / size), math.ceil((i + 1) * length / size))
        for i in range(size)
    ]


@pytest.mark.parametrize("shape", [(14, 14), (13, 16), (5, 7), (4, 4), (1, 3)])
@pytest.mark.parametrize("is_known", [True, False])
def test_each_window_is_averaged(shape: tuple[int, int], is_known: bool) -> None:
    images = np.random.default_rng(0).standard_normal((2, *shape, 3), "float32")
    inputs = keras.Input((*shape, 3) if is_known else (None, None, 3))
    outputs = AdaptiveAveragePooling2D(4)(inputs)
    assert outputs.shape == (None, 4, 4, 3)
    expected = [
        [images[:, row, column].mean((1, 2)) for column in windows(shape[1], 4)]
        for row in windows(shape[0], 4)
    ]
    answer = keras.Model(inputs, outputs).predict(images, verbose=0)
    np.testing.assert_allclose(answer, np.transpose(expected, (2, 0, 1, 3)), atol=1e-6)


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
        AdaptiveAveragePooling2D(0)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_kept(dtype: str) -> None:
    layer = AdaptiveAveragePooling2D(4, dtype=dtype)
    images = np.random.default_rng(0).uniform(size=(1, 14, 14, 3)).astype("float32")
    answer = layer(images)
    assert keras.backend.standardize_dtype(answer.dtype) == dtype.removeprefix("mixed_")
    expected = AdaptiveAveragePooling2D(4)(images)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(keras.ops.cast(answer, "float32")), expected, atol=1e-2
    )


def test_it_is_saved_and_exported(tmp_path: Path) -> None:
    """Export compares every format that it writes with Keras."""
    inputs = keras.Input((14, 13, 3))
    x = AdaptiveAveragePooling2D(4, name="pool")(inputs)
    x = keras.layers.Flatten()(x)
    outputs = keras.layers.Dense(3, activation="softmax")(x)
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("pool").get_config()["size"] == 4
    version = export(loaded, tmp_path / "models" / "pool", formats=("saved_model", "onnx"))
    assert {"saved_model.pb", "model.onnx"} <= {path.name for path in version.iterdir()}


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("googlenet", (32, 32, 3), keras.layers.AveragePooling2D),
        ("googlenet_tv", (None, None, 3), AdaptiveAveragePooling2D),
    ],
)
def test_only_torchvisions_googlenet_pools_adaptively(
    name: str, shape: tuple[int | None, int | None, int], kind: type[keras.layers.Layer]
) -> None:
    model = build(name, input_shape=shape, classes=3, aux_heads=True)
    for head in ("aux1", "aux2"):
        assert type(model.get_layer(f"{head}_pool")) is kind
