from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.tools import saved_model_cli

from keras_cnns_export.contract import Preprocessing
from keras_cnns_export.pixels import generated_images, read_by_pillow


def test_tensorflow_loads_it_without_this_package(version: Path, tiny: Any, split: Any) -> None:
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    expected = tiny.predict(split[0].astype("float32"), verbose=0)
    given = signature(images=tf.constant(split[0]))
    assert list(given) == ["probabilities"]
    np.testing.assert_allclose(given["probabilities"], expected, rtol=0, atol=1e-5)


def saved_model_tool(
    command: str, version: Path, *options: str, signature_name: str = "serving_default"
) -> None:
    """Do what `saved_model_cli` does, without another process that imports TensorFlow."""
    signature = ["--tag_set", "serve", "--signature_def", signature_name]
    # The tool keeps its flags between calls, so the flags that a call does not set are cleared.
    cleared = ["--inputs", "", "--input_examples", ""] if command == "run" else []
    arguments = saved_model_cli.create_parser().parse_args(
        [command, "--dir", str(version), *signature, *cleared, *options]
    )
    arguments.func()


def test_saved_model_cli_shows_the_names(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_model_tool("show", version)
    shown = " ".join(capsys.readouterr().out.split())
    assert "inputs['images'] tensor_info: dtype: DT_UINT8 shape: (-1, 12, 10, 3)" in shown
    assert "outputs['probabilities'] tensor_info: dtype: DT_FLOAT shape: (-1, 5)" in shown


def test_saved_model_cli_runs_it(version: Path, tiny: Any, split: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", split[0][:3])
    images = f"images={tmp_path / 'images.npy'}"
    saved_model_tool("run", version, "--inputs", images, "--outdir", str(tmp_path))
    expected = tiny.predict(split[0][:3].astype("float32"), verbose=0)
    given = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


def test_no_function_must_be_compiled_by_xla(version: Path) -> None:
    # TensorFlow Serving executes such a function only with --xla_cpu_compilation_enabled.
    # test_architectures.py looks at a model with grouped convolutions.
    assert b"_XlaMustCompile" not in (version / "saved_model.pb").read_bytes()


SIGNATURES = {
    "serving_default": ("tensorflow/serving/predict", {"images"}, {"probabilities"}),
    "serving_bytes": ("tensorflow/serving/predict", {"image_bytes"}, {"probabilities"}),
    "classify": ("tensorflow/serving/classify", {"inputs"}, {"classes", "scores"}),
}


def test_the_signatures_have_the_names_and_the_calls_of_tensorflow_serving(version: Path) -> None:
    content = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    definitions = content.meta_graphs[0].signature_def
    described = {
        name: (row.method_name, set(row.inputs), set(row.outputs))
        for name, row in definitions.items()
        if not name.startswith("__")
    }
    assert described == SIGNATURES


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    """Three images whose sides are odd numbers, one of them grey and one rotated."""
    return [content for _, content in list(generated_images(6))[2:5]]


@pytest.fixture(scope="module")
def expected(version: Path, tiny: Any, encoded: list[bytes]) -> Any:
    """What Keras answers to Pillow's pixels."""
    steps = Preprocessing.for_shape((12, 10, 3))
    pixels = np.stack([read_by_pillow(content, steps) for content in encoded])
    return tiny.predict(pixels.astype("float32"), verbose=0)


def test_encoded_images_are_answered(version: Path, encoded: list[bytes], expected: Any) -> None:
    signature = tf.saved_model.load(str(version)).signatures["serving_bytes"]
    given = signature(image_bytes=tf.constant(encoded))["probabilities"]
    np.testing.assert_allclose(given, expected, rtol=0, atol=0.03)  # pixels differ by a level


def test_examples_are_classified(
    version: Path, encoded: list[bytes], expected: Any, labels: tuple[str, ...], tmp_path: Path
) -> None:
    # Every byte is an escape, because the tool takes a semicolon for the end of an input.
    escaped = ("".join(f"\\x{byte:02x}" for byte in content) for content in encoded)
    examples = ", ".join(f"{{'image/encoded': [b'{content}']}}" for content in escaped)
    given = ["--input_examples", f"inputs=[{examples}]", "--outdir", str(tmp_path)]
    saved_model_tool("run", version, *given, signature_name="classify")
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, rtol=0, atol=0.03)
    classes = np.load(tmp_path / "classes.npy", allow_pickle=True)
    assert [[name.decode() for name in row] for row in classes] == [list(labels)] * 3


def test_the_labels_are_an_asset(version: Path) -> None:
    assert (version / "assets/labels.txt").read_bytes() == (version / "labels.txt").read_bytes()
