"""A model that ends in one sigmoid unit, as Keras' guides have it, is served with two classes."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnns_export import ExportError, export
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.graph import serving_graph
from keras_cnns_export.options import Quantization


@pytest.fixture(scope="module")
def of_one_unit() -> Any:
    """Keras' guide to two classes: one sigmoid unit, trained to tell bright images from dark."""
    keras.utils.set_random_seed(0)
    body = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu")]
    top = [layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((12, 10, 3)), *body, *top], name="bright")
    model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy")
    images, classes = dark_and_bright()
    model.fit(images.astype("float32"), classes, epochs=12, batch_size=16, verbose=0)
    return model


def dark_and_bright() -> tuple[Any, Any]:
    classes = np.arange(64) % 2
    noise = np.random.default_rng(0).integers(0, 120, (64, 12, 10, 3))
    return (noise + 130 * classes[:, None, None, None]).astype(np.uint8), classes


FORMATS_HERE = [name for name, row in FORMATS.items() if row.precision != "bfloat16"]


@pytest.mark.parametrize(
    "formats",
    [["saved_model", "onnx"], pytest.param(FORMATS_HERE, marks=pytest.mark.soak, id="all")],
)
def test_one_sigmoid_unit_is_two_classes_in_every_format(
    formats: list[str], of_one_unit: Any, tmp_path: Path
) -> None:
    images, classes = dark_and_bright()
    with pytest.raises(ExportError, match="1 labels for a model of 2 classes"):
        export(of_one_unit, tmp_path / "bright", labels=["bright"])
    outputs = ("logits", "top_k", "cam", "features")
    version = export(
        of_one_unit,
        tmp_path / "bright",
        labels=["dark", "bright"],
        formats=formats,
        outputs=outputs,
        samples=("generated", (images, classes)),
        quantization=Quantization(samples=16),
    )
    content = json.loads((version / "model.json").read_text(encoding="utf-8"))
    assert content["outputs"][:2] == [
        {"name": name, "dtype": "float32", "shape": [None, 2]}
        for name in ("probabilities", "logits")
    ]
    p = of_one_unit.predict(images.astype("float32"), verbose=0)
    expected = np.concatenate([1 - p, p], axis=1)
    for name in formats:
        given = FORMATS[name].load(version)(images)
        # NNCF takes the mean of the images' ranges, which clips the values of the brighter half.
        tolerance = 1e-5 if FORMATS[name].precision == "float32" else 0.15
        np.testing.assert_allclose(given["probabilities"], expected, rtol=0, atol=tolerance)
        assert content["parity"]["formats"][name]["accuracy"] == 1
        if FORMATS[name].precision == "float32":
            assert not given["logits"][:, 0].any()
            z = np.log(p[:, 0]) - np.log1p(-p[:, 0])
            np.testing.assert_allclose(given["logits"][:, 1], z, rtol=1e-3)
            mean = given["cam"].mean(axis=(1, 2))  # of the predicted class: z - b, or b - z
            (bias,) = of_one_unit.layers[-1].bias.numpy()
            sign = np.where(classes == 1, 1, -1)
            np.testing.assert_allclose(mean, sign * (z - bias), rtol=1e-3, atol=1e-5)


def test_a_temperature_of_one_sigmoid_unit_divides_its_logit(of_one_unit: Any) -> None:
    images, _ = dark_and_bright()
    p = of_one_unit.predict(images.astype("float32"), verbose=0)[:, 0]
    graph = serving_graph(of_one_unit, temperature=2.0)
    given = graph.function(images)["probabilities"].numpy()
    odds = np.sqrt(p / (1 - p))
    np.testing.assert_allclose(given[:, 1], odds / (1 + odds), rtol=1e-4)
