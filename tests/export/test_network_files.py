import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnns_export import ExportError, export
from keras_cnns_export.network import load_model


def saved(path: Path, *, trap: str) -> Path:
    """A .keras file with a Lambda layer that makes a file when it is called."""
    images = keras.Input((8, 8, 3))
    source = f"lambda x: (open({trap!r}, 'w').close(), x)[1]"
    x = layers.Lambda(eval(source), output_shape=(8, 8, 3))(images)
    x = layers.GlobalAveragePooling2D()(x)
    keras.Model(images, layers.Dense(3, activation="softmax")(x)).save(path)
    Path(trap).unlink(missing_ok=True)
    return path


def test_a_file_is_as_good_as_the_model(tiny: Any, split: Any, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny.keras")
    loaded = load_model(tmp_path / "tiny.keras")
    images = split[0][:3].astype("float32")
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), tiny.predict(images, verbose=0)
    )
    version = export(tmp_path / "tiny.keras", tmp_path / "models" / "tiny", formats=("onnx",))
    labels = (version / "labels.txt").read_text().split()
    # No labels were given: they are the indices of the classes.
    assert labels == ["0", "1", "2", "3", "4"]


def test_code_in_a_file_is_run_only_if_trusted(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    path = saved(tmp_path / "lambda.keras", trap=str(trap))
    with pytest.raises(ExportError, match=r"contains Python code.*give --trust, or trust=True"):
        export(path, tmp_path / "models" / "lambda", formats=("onnx",))
    assert not trap.exists()
    assert not (tmp_path / "models").exists()
    assert export(path, tmp_path / "models" / "lambda", formats=("onnx",), trust=True).is_dir()
    assert trap.exists()


def test_other_files_are_refused_in_one_line(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "text.keras").write_text("no model")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w"):
        pass
    tiny.save_weights(tmp_path / "tiny.weights.h5")
    for name, message in {
        "absent.keras": "there is no file",
        "text.keras": "is no .keras file",
        "tiny.weights.h5": "is no .keras file",
        "empty.keras": "cannot load",
    }.items():
        with pytest.raises(ExportError, match=message) as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
