import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnns import training
from keras_cnns_export import ExportError, ExportOptions, export, export_run
from keras_cnns_export.cli import summary
from keras_cnns_export.formats import FORMATS, Format


def read(version: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((version / "model.json").read_text(encoding="utf-8"))
    return content


def test_model_json_says_what_was_exported_and_how_well_it_agrees(
    version: Path, tiny: Any, split: Any
) -> None:
    images, classes = split
    first = tiny.predict(images.astype("float32"), verbose=0).argmax(axis=1)
    accuracy = float((first == classes).mean())
    content = read(version)
    assert content["name"] == "tiny"
    assert content["model"] == {"architecture": "tiny", "parameters": tiny.count_params()}
    assert content["inputs"] == [{"name": "images", "dtype": "uint8", "shape": [None, 12, 10, 3]}]
    assert content["outputs"] == [{"name": "probabilities", "dtype": "float32", "shape": [None, 5]}]
    assert content["preprocessing"]["crop"] == [12, 10]
    formats = content["formats"]
    assert all(entry.pop("milliseconds") > 0 for entry in formats.values())
    assert formats == {
        "saved_model": {
            "path": "saved_model.pb",
            "engine": "tensorflow",
            "precision": "float32",
            "signatures": ["serving_default", "serving_bytes", "classify"],
        },
        "onnx": {
            "path": "model.onnx",
            "engine": "onnxruntime",
            "precision": "float32",
            "opset": 17,
        },
    }
    assert content["metrics"] == {"split": "test", "samples": 70, "accuracy": accuracy}
    assert (content["parity"]["split"], content["parity"]["samples"]) == ("test", 70)
    for parity in content["parity"]["formats"].values():
        assert parity["largest_difference"] < 1e-5
        assert parity["top_1_agreement"] == 1
        assert parity["accuracy"] == accuracy


def test_every_file_is_listed_with_its_true_checksum(
    version: Path, labels: tuple[str, ...]
) -> None:
    listed = read(version)["files"]
    files = {path for path in version.rglob("*") if path.is_file()} - {version / "model.json"}
    assert {version / name for name in listed} == files
    for name, entry in listed.items():
        data = (version / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert (version / "labels.txt").read_text(encoding="utf-8").splitlines() == list(labels)


def test_a_bare_model_is_compared_on_generated_images(
    tmp_path: Path, tiny: Any, labels: tuple[str, ...]
) -> None:
    version = export(tiny, tmp_path / "bare", labels=labels, formats=("onnx",), architecture="mini")
    content = read(version)
    assert list(content["formats"]) == list(content["parity"]["formats"]) == ["onnx"]
    assert not (version / "saved_model.pb").exists()
    assert (content["parity"]["split"], content["parity"]["samples"]) == ("generated", 256)
    assert content["metrics"] is None
    assert content["model"]["architecture"] == "mini"
    assert export(tiny, tmp_path / "bare", labels=labels, formats=("onnx",)) == version.parent / "2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b"]}, "2 labels for a model of 5 classes"),
        ({"to": "models/.."}, "its last part names the model"),
        ({"formats": ("onnx", "tflite")}, "unknown format 'tflite'; there are: saved_model, onnx"),
        ({"outputs": ("heat",)}, "unknown output 'heat'; there are: probabilities"),
        ({"preprocessing": {"crop": 12}}, "it must have resize_shorter, crop"),
        (
            {"samples": ("test", np.zeros((4, 12, 10, 1), np.uint8))},
            r"samples are uint8 \[4, 12, 10, 1\]; the model takes uint8 \[N, 12, 10, 3\]",
        ),
    ],
)
def test_a_wrong_argument_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, tiny: Any, labels: tuple[str, ...], change: dict[str, Any], message: str
) -> None:
    arguments = {"to": tmp_path / "models" / "tiny", "labels": labels, **change}
    with pytest.raises(ExportError, match=message):
        export(tiny, arguments.pop("to"), **arguments)
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "models"])


def test_a_model_without_softmax_is_refused(
    tmp_path: Path, build_tiny: Callable[..., Any], labels: tuple[str, ...]
) -> None:
    with pytest.raises(ExportError, match=r"no probability distribution.*end the model with"):
        export(build_tiny(head=layers.Dense(5)), tmp_path / "logits", labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, tiny: Any, labels: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"export to .*file/tiny: Not a directory; nothing"):
        export(tiny, tmp_path / "file" / "tiny", labels=labels)


def test_if_one_format_disagrees_nothing_is_published(
    tmp_path: Path, tiny: Any, labels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any, **__: Any) -> dict[str, Any]:
        return {"path": "none"}

    def load(version: Path) -> Any:
        good = FORMATS["saved_model"].load(version)
        return lambda images: {"probabilities": np.roll(good(images)["probabilities"], 1, axis=1)}

    monkeypatch.setitem(
        FORMATS, "shifted", Format(write, load, (), "tensorflow")
    )  # as an extension would
    advice = "; leave it out with --formats saved_model, or formats=.'saved_model'. in Python$"
    message = rf"^shifted does not give Keras' answers.* in 'generated'.*{advice}"
    with pytest.raises(ExportError, match=message):
        export(tiny, tmp_path / "tiny", labels=labels, formats=("saved_model", "shifted"))
    assert list(tmp_path.iterdir()) == []


def test_a_mixed_precision_model_says_how_far_its_own_answers_are(
    tmp_path: Path, build_tiny: Callable[..., Any], split: Any
) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_tiny()
    finally:
        keras.config.set_dtype_policy(before)
    version = export(
        model, tmp_path / "mixed", formats=("onnx",), samples=("test", split), report=True
    )
    own = read(version)["parity"]["own_precision"]
    images, classes = split
    answers = np.asarray(model.predict(images.astype("float32"), verbose=0), np.float32)
    exported = FORMATS["onnx"].load(version)(images)["probabilities"]
    assert own["policy"] == "mixed_bfloat16"
    difference = np.abs(answers - exported)
    assert 1e-4 < own["largest_difference"] < 0.05
    assert own["largest_difference"] == pytest.approx(difference.max(), rel=0.05)
    assert own["mean_difference"] == pytest.approx(difference.mean(), rel=0.05)
    assert own["accuracy"] == pytest.approx((answers.argmax(axis=1) == classes).mean())
    (line,) = (each for each in summary(version).splitlines() if "bfloat16" in each)
    assert line.startswith(
        "exported in float32: the probabilities of the model itself, in mixed_bfloat16, differ "
    )
    assert "computes in mixed_bfloat16" in (version / "report.html").read_text(encoding="utf-8")


# A process whose files may not grow beyond a limit: the system refuses the write, as a full disk
# does (EFBIG in place of ENOSPC). It kills itself when the second format begins.
CHILD = """
import os, resource, signal, sys
from pathlib import Path
import keras
from keras import layers
from keras_cnns import training
from keras_cnns_export import ExportError, export, export_run

images = keras.Input((8, 8, 3))
x = layers.Conv2D(64, 3, activation="relu")(images)
x = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3)(x))
model = keras.Model(images, layers.Dense(3, activation="softmax")(x))
to = Path(sys.argv[1])

def attempt(limit, formats):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        answer = export(model, to, labels=["a", "b", "c"], formats=formats)
    except ExportError as error:
        answer = error
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    print(f"{answer} | {sorted(path.name for path in to.parent.iterdir())}", flush=True)

attempt(2, ("onnx",))                 # labels.txt does not fit
attempt(50_000, ("saved_model",))     # variables/ does not, which TensorFlow writes
attempt(50_000, ("onnx",))            # model.onnx does not
attempt(10_000_000, ("onnx",))

def kill(event, arguments):
    if event == "open" and str(arguments[0]).endswith("model.onnx"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
attempt(10_000_000, ("saved_model", "onnx"))
"""


def test_a_full_disk_and_a_kill_leave_no_half_version(
    tmp_path: Path, tiny: Any, labels: tuple[str, ...]
) -> None:
    to = tmp_path / "tiny"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(to)], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    refused = f"cannot export to {to}: File too large; nothing was published | []"
    assert child.stdout.splitlines() == [refused, refused, refused, f"{to / '1'} | ['tiny']"]

    (litter,) = to.glob(".partial-*")
    assert (litter / "version" / "saved_model.pb").exists()
    assert export(tiny, to, labels=labels, formats=("onnx",)) == to / "2"
    names = sorted(path.name for path in to.iterdir())
    assert names == ["1", "2", "config.pbtxt", "labels.txt"]


def test_a_run_is_exported_with_its_labels_and_compared_on_its_validation_split(
    finished_run: Path, tmp_path: Path
) -> None:
    version = export_run(finished_run, tmp_path / "digits", formats=("onnx",))
    content = read(version)
    assert content["model"]["architecture"] == "resnet20"
    assert content["preprocessing"]["resize_shorter"] == 18
    assert content["outputs"][0]["shape"] == [None, 10]
    assert content["parity"]["split"] == "validation"
    expected = training.evaluate(training.open_run(finished_run), "validation")
    assert content["parity"]["samples"] == expected["samples"]
    accuracy = content["parity"]["formats"]["onnx"]["accuracy"]
    assert accuracy == pytest.approx(expected["accuracy"])
    assert content["metrics"] == {"split": "test", "samples": 364, "accuracy": 0.25}
    labels = (version / "labels.txt").read_text(encoding="utf-8")
    assert labels == (finished_run / "labels.txt").read_text(encoding="utf-8")


def test_options_replace_what_is_read_from_a_run(finished_run: Path, tmp_path: Path) -> None:
    images = np.zeros((3, 16, 16, 1), np.uint8)
    labels = [f"number {number}" for number in range(10)]
    options = ExportOptions(formats=("onnx",), labels=labels)
    version = export_run(finished_run, tmp_path / "digits", options, samples=("few", images))
    content = read(version)
    assert (content["parity"]["split"], content["parity"]["samples"]) == ("few", 3)
    assert content["model"]["architecture"] == "resnet20"
    assert (version / "labels.txt").read_text(encoding="utf-8").splitlines() == labels


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no run directory"):
        export_run(tmp_path / "absent", tmp_path / "digits")


def test_a_version_needs_nothing_from_beside_it(version: Path, split: Any, tmp_path: Path) -> None:
    moved = shutil.copytree(version, tmp_path / "elsewhere" / "7")
    for name in read(version)["formats"]:
        assert FORMATS[name].load(moved)(split[0][:2])["probabilities"].shape == (2, 5)
