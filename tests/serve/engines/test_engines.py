import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keras_cnns_serve.engines.base import MAX_BATCH, warm_up
from keras_cnns_serve.engines.onnxruntime import OnnxRuntimeEngine
from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.manifest import read_manifest
from tests.serve.conftest import OUTPUTS, graph, write_version
from tests.serve.engines.graphs import constant_graph


def load(directory: Path) -> OnnxRuntimeEngine:
    manifest = read_manifest(directory / "model.json")
    engine = OnnxRuntimeEngine(directory / "model.onnx", manifest)
    warm_up(engine, manifest, "model.onnx")
    return engine


def test_names_its_outputs_in_the_manifests_order(tmp_path: Path) -> None:
    model = graph(extra_output=True)
    outputs = load(write_version(tmp_path / "two" / "1", model, outputs=OUTPUTS[::-1])).run(
        np.full((3, 8, 8, 1), 130, np.uint8)
    )
    assert list(outputs) == ["logits", "probabilities"]
    assert outputs["probabilities"].shape == (3, 10)
    assert outputs["probabilities"].dtype == np.float32
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(outputs["probabilities"].argmax(axis=1), [5, 5, 5])


@pytest.mark.parametrize("count", [1, MAX_BATCH, MAX_BATCH + 1, 3 * MAX_BATCH])
def test_a_large_batch_run_in_pieces_keeps_its_order(tmp_path: Path, count: int) -> None:
    engine = load(write_version(tmp_path / "grey" / "1"))
    levels = np.arange(count) % 256
    images = np.broadcast_to(levels[:, None, None, None], (count, 8, 8, 1)).astype(np.uint8)
    alone = [engine.run(images[i : i + 1])["probabilities"][0] for i in range(count)]
    np.testing.assert_allclose(engine.run(images)["probabilities"], alone, rtol=1e-6, atol=1e-9)


def _output(name: str = "probabilities", dtype: str = "float32", classes: int = 10) -> Any:
    return {"outputs": [{"name": name, "dtype": dtype, "shape": [None, classes]}]}


def _preprocess(**changes: Any) -> dict[str, Any]:
    values = {"resize_shorter": 16, "crop": 8, "interpolation": "bilinear", "antialias": True}
    shape = [None, changes.get("crop", 8), changes.get("crop", 8), changes["channels"]]
    inputs = [{"name": "images", "dtype": "uint8", "shape": shape}]
    return {"preprocessing": values | changes, "inputs": inputs}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (_output(classes=11), "has probabilities of shape [None, 10]; model.json says [None, 11]"),
        (_output(dtype="uint8"), "has probabilities of type float32; model.json says uint8"),
        ({"outputs": OUTPUTS}, "has the outputs probabilities; model.json says probabilities, log"),
        (_preprocess(channels=3), "has images of shape [None, 8, 8, 1]"),
        (_preprocess(channels=1, crop=16), "has images of shape [None, 8, 8, 1]"),
    ],
)
def test_refuses_a_graph_that_is_not_what_the_manifest_says(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(VersionRefusedError) as refused:
        load(write_version(tmp_path / "grey" / "1", **changes))
    assert reason in str(refused.value)


def _tiny(
    *nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = (), **inputs: Any
) -> bytes:
    """A graph from images, whose sizes are all left open, to probabilities."""
    values = {"images": (TensorProto.UINT8, ["N", None, None, 1])} | inputs
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(name, *value) for name, value in values.items()],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def _external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


CAST = helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT)
FLATTEN = helper.make_node("Flatten", ["x"], ["probabilities"])
ADD = helper.make_node("Add", ["x", "w"], ["probabilities"])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"not a graph", "does not load"),
        (b"", "does not load"),
        (graph()[:200], "does not load"),
        (_tiny(CAST, FLATTEN), "gives probabilities of shape [1, 64] for one image"),
        (_tiny(CAST, ADD, w=(TensorProto.FLOAT, [1])), "has the inputs images, w; model.json says"),
        (_tiny(CAST, ADD, initializers=(_external("../secret"),)), "escapes model directory"),
        (_tiny(CAST, ADD, initializers=(_external("/etc/hostname"),)), "Absolute path not allowed"),
        (_tiny(CAST, ADD, initializers=(_external("link"),)), "escapes model directory"),
    ],
)
def test_refuses_a_file_that_cannot_be_run(tmp_path: Path, model: bytes, reason: str) -> None:
    directory = tmp_path / "grey" / "1"
    write_version(directory, model)
    (tmp_path / "grey" / "secret").write_bytes(bytes(256))
    (directory / "link").symlink_to("../secret")
    with pytest.raises(VersionRefusedError) as refused:
        load(directory)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_constant_parts_of_a_graph_are_not_computed_when_it_is_opened(tmp_path: Path) -> None:
    """They would take minutes, in which no other thread of Python runs."""
    directory = write_version(tmp_path / "slow" / "1", constant_graph())
    started = time.monotonic()
    OnnxRuntimeEngine(directory / "model.onnx", read_manifest(directory / "model.json"))
    assert time.monotonic() - started < 20


@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows what memory is resident")
def test_the_memory_of_a_large_batch_is_freed(tmp_path: Path) -> None:
    model = _tiny(
        CAST,
        helper.make_node("Expand", ["x", "wide"], ["y"]),  # 4 MB for an image
        helper.make_node("ReduceMean", ["y"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "levels"], ["probabilities"]),
        initializers=(
            onnx.numpy_helper.from_array(np.array([1, 8, 8, 16384]), "wide"),
            onnx.numpy_helper.from_array(np.zeros((16384, 10), np.float32), "levels"),
        ),
    )
    engine = load(write_version(tmp_path / "grey" / "1", model))
    freed: list[int] = []
    # In one of many runs, in a process of 3 GB, the first call freed nothing; the cause is unknown.
    while len(freed) < 3 and max(freed, default=0) <= 40e6:
        before = _resident()
        engine.run(np.zeros((16, 8, 8, 1), np.uint8))
        held = _resident()
        assert held - before > 50e6 or freed
        engine.shrink()
        freed.append(held - _resident())
    assert max(freed) > 40e6


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
