from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.tools import saved_model_cli


def test_tensorflow_loads_it_without_this_package(version: Path, net: Any, split: Any) -> None:
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    expected = net.predict(split[0].astype("float32"), verbose=0)
    given = signature(images=tf.constant(split[0]))
    assert list(given) == ["probabilities"]
    np.testing.assert_allclose(given["probabilities"], expected, rtol=0, atol=1e-5)


def saved_model_tool(command: str, version: Path, *options: str) -> None:
    """What `saved_model_cli` does, without a process that imports TensorFlow once more."""
    signature = ["--tag_set", "serve", "--signature_def", "serving_default"]
    arguments = saved_model_cli.create_parser().parse_args(
        [command, "--dir", str(version), *signature, *options]
    )
    arguments.func()


def test_saved_model_cli_shows_the_names(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_model_tool("show", version)
    shown = " ".join(capsys.readouterr().out.split())
    assert "inputs['images'] tensor_info: dtype: DT_UINT8 shape: (-1, 12, 10, 3)" in shown
    assert "outputs['probabilities'] tensor_info: dtype: DT_FLOAT shape: (-1, 5)" in shown


def test_saved_model_cli_runs_it(version: Path, net: Any, split: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", split[0][:3])
    images = f"images={tmp_path / 'images.npy'}"
    saved_model_tool("run", version, "--inputs", images, "--outdir", str(tmp_path))
    expected = net.predict(split[0][:3].astype("float32"), verbose=0)
    given = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)
