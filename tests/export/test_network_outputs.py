"""Each output against NumPy, in the graph and in both formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnns_export import ExportError, export
from keras_cnns_export.contract import TensorSpec
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.graph import serving_graph
from keras_cnns_export.network import OUTPUTS

SPECS = {
    "probabilities": ("float32", (None, 5)),
    "logits": ("float32", (None, 5)),
    "top_k_indices": ("int32", (None, 5)),
    "top_k_probabilities": ("float32", (None, 5)),
    "cam": ("float32", (None, 12, 10)),
    "features": ("float32", (None, 8)),
    "aux1": ("float32", (None, 4)),
    "aux2": ("float32", (None, 4)),
}


def heads(x: Any) -> dict[str, Any]:
    main = layers.Dense(5, name="logits")(layers.Dropout(0.5)(x))
    return {
        "main": layers.Activation("softmax")(main),
        "aux1": layers.Dense(4, activation="softmax")(x),
        "aux2": layers.Dense(4, activation="softmax")(x),
    }


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def model(build_tiny: Callable[..., Any]) -> Any:
    return build_tiny(head=heads)


@pytest.fixture(scope="module")
def answers(model: Any, split: Any) -> dict[str, Any]:
    """Compute the outputs from the feature map and the weights with NumPy."""
    pool = next(each for each in model.layers if "global_average" in each.name)
    layers_up_to = keras.Model(model.input, [pool.input, model.output])
    feature_map, given = layers_up_to.predict(split[0].astype("float32"), verbose=0)
    kernel, bias = model.get_layer("logits").get_weights()
    features = feature_map.mean(axis=(1, 2))
    logits = features @ kernel + bias
    first = logits.argmax(axis=1)
    return {
        "features": features,
        "logits": logits,
        "probabilities": softmax(logits),
        "top_k_indices": np.argsort(-logits, axis=1),
        "top_k_probabilities": -np.sort(-softmax(logits), axis=1),
        "cam": np.einsum("nhwd,dn->nhw", feature_map, kernel[:, first]),
        "aux1": given["aux1"],
        "aux2": given["aux2"],
    }


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory, model: Any, split: Any, labels: tuple[str, ...]
) -> Path:
    to = tmp_path_factory.mktemp("models") / "everything"
    return export(model, to, labels=labels, outputs=tuple(OUTPUTS), samples=("test", split))


@pytest.mark.parametrize("name", ["saved_model", "onnx"])
def test_every_output_is_what_its_definition_says(
    name: str, everything: Path, answers: dict[str, Any], split: Any
) -> None:
    given = FORMATS[name].load(everything)(split[0])
    assert {key: str(value.dtype) for key, value in given.items()} == {
        key: dtype for key, (dtype, _) in SPECS.items()
    }
    for key, expected in answers.items():
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(given[key], expected, rtol=0, atol=2e-5 * scale, err_msg=key)


def test_the_map_of_a_class_has_its_logit_as_its_mean(answers: dict[str, Any], model: Any) -> None:
    bias = model.get_layer("logits").get_weights()[1]
    first = answers["logits"].argmax(axis=1)
    expected = answers["logits"].max(axis=1) - bias[first]
    np.testing.assert_allclose(answers["cam"].mean(axis=(1, 2)), expected, rtol=1e-4)


def test_model_json_describes_the_outputs_in_the_order_asked_for(everything: Path) -> None:
    import json

    content = json.loads((everything / "model.json").read_text())
    assert content["outputs"] == [
        {"name": name, "dtype": dtype, "shape": list(shape)}
        for name, (dtype, shape) in SPECS.items()
    ]


def test_probabilities_are_always_there_and_a_dense_softmax_has_logits(
    tiny: Any, split: Any
) -> None:
    graph = serving_graph(tiny, ("logits", "features"))
    assert [spec.name for spec in graph.outputs] == ["probabilities", "logits", "features"]
    assert graph.outputs[2] == TensorSpec("features", "float32", (None, 8))
    given = graph.function(split[0])
    np.testing.assert_allclose(softmax(given["logits"].numpy()), given["probabilities"], atol=1e-5)
    kernel, bias = tiny.layers[-1].get_weights()
    np.testing.assert_allclose(given["features"] @ kernel + bias, given["logits"], rtol=1e-4)


def test_top_k_is_five_of_many_classes(build_tiny: Callable[..., Any]) -> None:
    model = build_tiny(head=layers.Dense(9, activation="softmax"))
    graph = serving_graph(model, ("top_k",))
    assert [spec.shape for spec in graph.outputs[1:]] == [(None, 5), (None, 5)]


def test_a_temperature_divides_the_logits(model: Any, answers: dict[str, Any], split: Any) -> None:
    graph = serving_graph(model, ("logits", "top_k", "cam"), temperature=2.5)
    given = graph.function(split[0])
    scale = np.abs(answers["logits"]).max()
    np.testing.assert_allclose(given["logits"], answers["logits"] / 2.5, atol=1e-5 * scale)
    np.testing.assert_allclose(given["probabilities"], softmax(given["logits"].numpy()), atol=1e-6)
    scale = np.abs(answers["cam"]).max()
    np.testing.assert_allclose(given["cam"], answers["cam"], atol=1e-5 * scale)


def flat(x: Any) -> Any:
    return layers.Dense(5, activation="softmax")(layers.Dense(6, name="hidden")(x))


@pytest.mark.parametrize(
    ("head", "output", "message"),
    [
        (flat, "cam", "tiny has no cam: its classifier reads hidden, and .* global average pool"),
        (
            layers.Dense(5, "sigmoid", name="top"),
            "logits",
            "tiny ends in top; the output logits and",
        ),
        (lambda x: layers.Softmax()(layers.ReLU(name="end")(x)), "features", "come from end, not"),
        (flat, "aux1", "tiny has no output 'aux1'; it has: main"),
        (flat, "heat", "unknown output 'heat'; there are: probabilities, logits, top_k, cam"),
    ],
)
def test_an_output_that_the_network_cannot_have_is_refused(
    build_tiny: Callable[..., Any], head: Any, output: str, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        serving_graph(build_tiny(head=head), (output,))
