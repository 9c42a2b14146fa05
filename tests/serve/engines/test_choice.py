import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns_serve.engines.choice import EngineOptions, choose_format, load_engine
from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.files import is_temporary, read_version
from keras_cnns_serve.repository.manifest import Manifest, read_manifest
from tests.serve.conftest import graph, publish, write_version
from tests.serve.engines.graphs import constant_graph, endless_graph

FORMATS = {
    "onnx": {"path": "model.onnx", "milliseconds": 3.0},
    "onnx_int8": {"path": "model.int8.onnx", "milliseconds": 1.0},
    "openvino": {"path": "openvino/model.xml", "milliseconds": 2.0},
    "openvino_bfloat16": {"path": "openvino/model.xml", "milliseconds": 1.5},
    "saved_model": {"path": "saved_model.pb", "milliseconds": 4.0},
    "litert": {"path": "model.tflite", "engine": "litert", "milliseconds": 0.1},
}
EMPTY = {"openvino/model.xml": b"", "openvino/model.bin": b"", "saved_model.pb": b""}


def manifest(tmp_path: Path, agreement: dict[str, float], **changes: Any) -> Manifest:
    parity = {"formats": {name: {"top_1_agreement": a} for name, a in agreement.items()}}
    files = {**EMPTY, "model.int8.onnx": b""}
    settings = {"formats": FORMATS, "parity": parity} | changes
    return read_manifest(publish(tmp_path / "grey" / "1", files, **settings) / "model.json")


ALL = dict.fromkeys(FORMATS, 1.0)


@pytest.mark.parametrize(
    ("agreement", "engine", "precision", "chosen"),
    [
        (ALL, "auto", "auto", "onnx_int8"),
        (ALL | {"onnx_int8": 0.98}, "auto", "auto", "openvino_bfloat16"),
        ({"onnx": 1.0, "openvino": 1.0}, "auto", "auto", "openvino"),
        ({}, "auto", "auto", "onnx"),  # nothing was proven: float32, by ONNX Runtime
        (ALL, "auto", "float32", "openvino"),
        (ALL, "onnxruntime", "auto", "onnx_int8"),
        (ALL, "onnxruntime", "float32", "onnx"),
        (ALL, "openvino", "auto", "openvino_bfloat16"),
        (ALL, "tensorflow", "auto", "saved_model"),
        ({}, "openvino", "bfloat16", "openvino_bfloat16"),  # asked for by name
        ({}, "onnxruntime", "auto", "onnx"),
    ],
)
def test_the_fastest_that_was_proven(
    tmp_path: Path, agreement: dict[str, float], engine: str, precision: str, chosen: str
) -> None:
    read = manifest(tmp_path, agreement)
    assert choose_format(read, engine, precision, lambda name: True)[0].name == chosen


@pytest.mark.parametrize(
    ("figures", "metrics", "chosen"),
    [
        # If the images have labels, the accuracy decides, and not the agreement.
        ({"onnx": (1.0, 0.80), "onnx_int8": (0.98, 0.80)}, None, "onnx_int8"),
        ({"onnx": (1.0, 0.80), "onnx_int8": (0.995, 0.79)}, None, "onnx"),
        ({"onnx_int8": (0.98, 0.80)}, {"split": "test", "accuracy": 0.80}, "onnx_int8"),
        ({"onnx_int8": (0.98, 0.80)}, {"split": "other", "accuracy": 0.80}, "onnx"),
        ({"onnx": (1.0, None), "onnx_int8": (0.98, None)}, None, "onnx"),
        ({"onnx": (1.0, 0.0), "onnx_int8": (0.98, 0.0)}, None, "onnx"),
    ],
)
def test_proven_is_by_accuracy_where_it_is_known(
    tmp_path: Path,
    figures: dict[str, tuple[float, float | None]],
    metrics: dict[str, Any] | None,
    chosen: str,
) -> None:
    formats = {n: {"top_1_agreement": g, "accuracy": c} for n, (g, c) in figures.items()}
    parity = {"split": "test", "formats": formats}
    read = manifest(tmp_path, {}, parity=parity, metrics=metrics)
    assert choose_format(read, installed=lambda name: True)[0].name == chosen


def test_a_version_needs_no_onnx(tmp_path: Path) -> None:
    read = manifest(tmp_path, {}, formats={"saved_model": {"path": "saved_model.pb"}})
    for engine in ("auto", "tensorflow"):
        assert choose_format(read, engine, installed=lambda name: True)[0].name == "saved_model"
    with pytest.raises(VersionRefusedError, match="it has tensorflow float32"):
        choose_format(read, "onnxruntime")


def test_an_engine_that_is_not_installed_is_passed_over_or_named(tmp_path: Path) -> None:
    read = manifest(tmp_path, {"onnx": 1.0, "openvino": 1.0})
    assert choose_format(read, installed=lambda name: name == "onnxruntime")[0].name == "onnx"
    with pytest.raises(VersionRefusedError, match=r"install 'keras-cnns-serve\[openvino\]'"):
        choose_format(read, "openvino", installed=lambda name: False)
    with pytest.raises(VersionRefusedError, match="no format for --engine tensorflow --precision"):
        choose_format(read, "tensorflow", "int8")


PRECISE = "model.json has no measured time of a format that is accurate"


@pytest.mark.parametrize(
    ("agreement", "engine", "precision", "reason"),
    [
        (ALL, "auto", "auto", "the fastest format that is accurate according to model.json"),
        ({}, "auto", "auto", f"the most precise format, because {PRECISE}"),
        (
            ALL,
            "openvino",
            "auto",
            "the fastest format for --engine openvino that is accurate according to model.json",
        ),
        (
            {},
            "auto",
            "float32",
            f"the most precise format for --precision float32, because {PRECISE}",
        ),
        (ALL, "onnxruntime", "int8", "requested by --engine onnxruntime --precision int8"),
        (ALL, "tensorflow", "auto", "requested by --engine tensorflow"),
    ],
)
def test_a_choice_has_its_reason(
    tmp_path: Path, agreement: dict[str, float], engine: str, precision: str, reason: str
) -> None:
    read = manifest(tmp_path, agreement)
    assert choose_format(read, engine, precision, lambda name: True)[1] == reason


def test_a_choice_of_one_has_its_reason(tmp_path: Path) -> None:
    formats = {name: FORMATS[name] for name in ("onnx", "openvino")}
    read = manifest(tmp_path, {}, formats=formats)
    found, reason = choose_format(read, installed=lambda name: name == "openvino")
    assert found.name == "openvino"
    assert reason == "the only format whose engine is installed"
    only = read_manifest(write_version(tmp_path / "only" / "1") / "model.json")
    assert choose_format(only, "onnxruntime")[1] == "the only format"


@pytest.mark.parametrize(
    ("asked", "threads", "slots"), [(1, 1, 4), (2, 2, 2), (3, 3, 1), (8, 8, 1)]
)
def test_threads_that_are_asked_for(tmp_path: Path, asked: int, threads: int, slots: int) -> None:
    source = read_version("grey", 1, write_version(tmp_path / "grey" / "1"))
    loaded = load_engine(source, EngineOptions(threads=asked, cores=4))
    assert (loaded.threads, loaded.slots, loaded.format.name) == (threads, slots, "onnx")
    assert loaded.reason == "the only format; threads set by --threads"
    lone = load_engine(source, EngineOptions(cores=1))
    assert lone.reason == "the only format; there is one core"


LEVELS = np.arange(0, 250, 10)
IMAGES = np.broadcast_to(LEVELS[:, None, None, None], (len(LEVELS), 8, 8, 1)).astype(np.uint8)


def test_openvino_answers_as_onnx_runtime_does(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    (tmp_path / "model.onnx").write_bytes(graph())
    model = openvino.convert_model(tmp_path / "model.onnx")
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    files = {
        f"openvino/model.{end}": (tmp_path / f"model.{end}").read_bytes() for end in ("xml", "bin")
    }
    formats = {"onnx": {"path": "model.onnx"}, "openvino": {"path": "openvino/model.xml"}}
    source = read_version("grey", 1, publish(tmp_path / "grey" / "1", files, formats=formats))
    expected = load_engine(source, EngineOptions("onnxruntime")).engine.run(IMAGES)
    loaded = load_engine(source, EngineOptions("openvino", "float32", cores=2))
    assert loaded.format.name == "openvino"
    given = loaded.engine.run(IMAGES)
    np.testing.assert_allclose(given["probabilities"], expected["probabilities"], atol=1e-5)
    loaded.engine.shrink()
    assert len(loaded.engine.run(IMAGES[:1], ["probabilities"])["probabilities"]) == 1


def test_tensorflow_answers_as_onnx_runtime_does(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    levels = tf.range(10, dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.uint8, "images")])
    def answer(images: Any) -> Any:
        level = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) / 25.6 - 0.5
        return {"probabilities": tf.nn.softmax(2 * level * levels - levels**2)}

    saved = tmp_path / "saved"
    tf.saved_model.save(tf.Module(), str(saved), {"serving_default": answer})
    files = {
        p.relative_to(saved).as_posix(): p.read_bytes() for p in saved.rglob("*") if p.is_file()
    }
    formats = {"onnx": {"path": "model.onnx"}, "saved_model": {"path": "saved_model.pb"}}
    source = read_version("grey", 1, publish(tmp_path / "grey" / "1", files, formats=formats))
    loaded = load_engine(source, EngineOptions("tensorflow", cores=2))
    loaded.engine.shrink()
    expected = load_engine(source, EngineOptions("onnxruntime")).engine.run(IMAGES)
    given = loaded.engine.run(IMAGES)
    np.testing.assert_allclose(given["probabilities"], expected["probabilities"], atol=1e-5)


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_a_broken_file_of_another_engine_is_refused(tmp_path: Path, engine: str) -> None:
    pytest.importorskip(engine)
    files = {**EMPTY, "model.int8.onnx": b""}
    source = read_version("grey", 1, publish(tmp_path / "grey" / "1", files, formats=FORMATS))
    with pytest.raises(VersionRefusedError, match="does not load"):
        load_engine(source, EngineOptions(engine))


@pytest.mark.parametrize("model", [endless_graph, constant_graph])
def test_a_trial_that_does_not_end_is_ended(tmp_path: Path, model: Callable[[], bytes]) -> None:
    source = read_version("slow", 1, write_version(tmp_path / "slow" / "1", model()))
    threads = threading.active_count()
    message = (
        r"^model\.onnx was not loaded and run once within 0\.3 s; allow more time with "
        r"--load-timeout$"
    )
    started = time.monotonic()
    with pytest.raises(VersionRefusedError, match=message) as refused:
        load_engine(source, EngineOptions(load_timeout=0.3))
    assert time.monotonic() - started < 20
    assert not is_temporary(refused.value)
    until = time.monotonic() + 10
    while threading.active_count() > threads:
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.01)
