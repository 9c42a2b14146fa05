"""Every failure of an export is one sentence, and leaves nothing behind."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnns_export import ExportError, cli, export, pixels
from keras_cnns_export.formats import FORMATS


def fails(*_: Any) -> Any:
    raise KeyError("a converter's own\n exception")


@pytest.mark.parametrize(
    ("broken", "asked", "left"),
    [
        ("onnx", ["saved_model", "onnx"], "saved_model"),
        ("onnx", ["onnx_int8", "saved_model", "openvino"], "saved_model,openvino"),
        ("onnx", ["onnx_int8"], None),
        ("onnx_int8", ["onnx", "onnx_int8"], "onnx"),
    ],
)
@pytest.mark.parametrize("step", ["write", "load"])
def test_the_error_of_a_format_names_it_and_how_to_leave_it_out(
    broken: str,
    asked: list[str],
    left: str | None,
    step: str,
    tmp_path: Path,
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, row in FORMATS.items():  # the other formats write nothing, and cost no time
        quick: dict[str, Any] = {"write": lambda *_: {"path": "none"}, "load": lambda *_: None}
        monkeypatch.setitem(FORMATS, name, dataclasses.replace(row, **quick))
    failing: dict[str, Any] = {step: fails}
    monkeypatch.setitem(FORMATS, broken, dataclasses.replace(FORMATS[broken], **failing))
    with pytest.raises(ExportError) as caught:
        export(tiny, tmp_path / "tiny", formats=asked)
    advice = "" if left is None else f"; leave it out with --formats {left}, or formats="
    text = str(caught.value)
    reason = f'{broken}: KeyError: "a converter\'s own\\n exception"'
    assert text.startswith(f"{reason}{advice}")
    assert (text == reason) == (left is None)
    assert isinstance(caught.value.__cause__, KeyError)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_fails_while_it_is_timed_is_named(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = FORMATS["onnx"]

    def load(version: Path) -> Any:
        predict = good.load(version)
        return lambda images: fails() if (images == 127).all() else predict(images)

    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(good, load=load))
    message = r"^onnx: KeyError: .*; leave it out with --formats openvino"
    with pytest.raises(ExportError, match=message):
        export(tiny, tmp_path / "tiny", formats=("onnx", "openvino"))
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_the_pixels_is_the_saved_models(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "MIN_WITHIN_ONE_LEVEL", 1.01)
    message = (
        "^saved_model: TensorFlow and Pillow read encoded images differently: .*%"
        " of the pixels agree to within one level, .*; leave it out with --formats onnx"
    )
    with pytest.raises(ExportError, match=message):
        export(tiny, tmp_path / "tiny", formats=("saved_model", "onnx"))
    assert list(tmp_path.iterdir()) == []


class Broken(keras.layers.Layer):
    """Fails when it is traced for inference."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        if training is False:
            raise RuntimeError("no such\ncase")
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda build: build(head=lambda x: layers.Softmax()(Broken()(x))),
            "RuntimeError: .*no such",
        ),
        (lambda build: dataclasses, "cannot export a module: give a keras.Model"),
    ],
)
def test_every_exception_leaves_as_one_sentence(
    make: Callable[[Any], Any], message: str, tmp_path: Path, build_tiny: Any
) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        export(make(build_tiny), tmp_path / "tiny")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_nan_is_called_nan_and_the_first_to_hold_it_is_named(
    tmp_path: Path, build_tiny: Callable[..., Any]
) -> None:
    weights = build_tiny()
    kernel = weights.get_layer(index=5).kernel
    kernel.assign(kernel.numpy() * np.nan)
    answers = build_tiny(head=lambda x: layers.Softmax()(Root(name="root")(layers.Dense(5)(x))))
    for model, message in [
        (weights, f"tiny holds NaN in the weight {kernel.path}: its training diverged"),
        (answers, "tiny answers NaN; the first layer whose output holds NaN is 'root'"),
    ]:
        with pytest.raises(ExportError, match=message):
            export(model, tmp_path / "tiny", formats=("onnx",))
    assert list(tmp_path.iterdir()) == []


class Root(keras.layers.Layer):
    """The square root of numbers, which are negative here."""

    def call(self, x: Any) -> Any:
        return keras.ops.sqrt(-1 - keras.ops.abs(x))


@pytest.mark.parametrize("name", ["onnx", "openvino", "litert"])
def test_the_command_line_prints_one_sentence_and_no_librarys_log(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = keras.Input((8, 8, 3))
    x = layers.UpSampling2D(2, interpolation="lanczos3")(images)  # no format but SavedModel has it
    x = layers.GlobalAveragePooling2D()(x)
    keras.Model(images, layers.Dense(3, activation="softmax")(x)).save(tmp_path / "tiny.keras")
    formats = f"{name},saved_model"
    arguments = [str(tmp_path / "tiny.keras"), "--to", str(tmp_path / "tiny"), "--formats", formats]
    assert cli.main(arguments) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"keras-cnns export: {name}: ")
    assert "; leave it out with --formats saved_model, or formats=['saved_model'] in Python" in line
