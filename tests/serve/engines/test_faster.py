"""The server uses the format that is fastest on its own machine, whatever model.json says."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from keras_cnns_serve.core import idle, servable
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Target
from keras_cnns_serve.core.servable import Options
from keras_cnns_serve.engines.choice import EngineOptions, Loaded, load_engine
from keras_cnns_serve.engines.faster import NotCalmError, find_fastest
from keras_cnns_serve.repository.files import read_version
from tests.serve.conftest import graph, publish

PARITY = {"formats": {name: {"top_1_agreement": 1.0} for name in ("onnx", "onnx_int8")}}


def slow_graph() -> bytes:
    """The graph with ten multiplications by large matrices, whose result, zero, is added."""
    model = onnx.load_from_string(graph())
    (last,) = (node for node in model.graph.node if node.output[0] == "probabilities")
    matrices = [np.zeros((10, 1000)), *[np.zeros((1000, 1000))] * 10, np.zeros((1000, 10))]
    value = "logits"
    nodes = []
    for index, matrix in enumerate(matrices):
        name = f"matrix{min(index, 1) if index < len(matrices) - 1 else 'last'}"
        if name not in [each.name for each in model.graph.initializer]:
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(matrix.astype(np.float32), name)
            )
        nodes.append(helper.make_node("MatMul", [value, name], [f"product{index}"]))
        value = f"product{index}"
    nodes.append(helper.make_node("Add", [last.input[0], value], ["sum"]))
    last.input[0] = "sum"
    position = len(model.graph.node) - 1
    for node in reversed(nodes):
        model.graph.node.insert(position, node)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def write(root: Path, float32: bytes, int8: bytes, milliseconds: tuple[float, float]) -> Path:
    """Publish grey/1 with a float32 and an int8 graph, and the exporter's claimed durations."""
    formats = {
        "onnx": {"path": "model.onnx", "milliseconds": milliseconds[0]},
        "onnx_int8": {"path": "model.int8.onnx", "milliseconds": milliseconds[1]},
    }
    files = {"model.onnx": float32, "model.int8.onnx": int8}
    return publish(root / "grey" / "1", files, formats=formats, parity=PARITY)


def find(version: Path, calm: Callable[[int], bool], **options: Any) -> tuple[Loaded, Loaded]:
    source, engine = read_version("grey", 1, version), EngineOptions(**options)
    loaded = load_engine(source, engine)
    return loaded, find_fastest(source, engine, loaded, calm)


@pytest.mark.parametrize("cores", [1, 2])
def test_false_times_in_model_json_are_corrected(tmp_path: Path, cores: int) -> None:
    version = write(tmp_path, graph(), slow_graph(), (100.0, 0.001))
    before, after = find(version, lambda cores: True, cores=cores)
    assert before.format.name == "onnx_int8"
    assert after.format.name == "onnx"
    assert "times as fast on this machine as onnx_int8" in after.reason
    image = np.full((1, 8, 8, 1), 130, np.uint8)
    assert after.engine.run(image)["probabilities"].argmax() == 5


def test_a_format_that_is_not_much_faster_changes_nothing(tmp_path: Path) -> None:
    version = write(tmp_path, slow_graph(), graph(), (2.0, 1.0))
    before, after = find(version, lambda cores: True)
    assert after.engine is before.engine
    assert "; onnx is not 1.2 times as fast on this machine; " in after.reason


def test_a_requested_precision_is_kept(tmp_path: Path) -> None:
    version = write(tmp_path, graph(), slow_graph(), (100.0, 0.001))
    before, after = find(version, lambda cores: True, precision="int8")
    assert after is before


def test_other_work_prevents_a_measurement(tmp_path: Path) -> None:
    version = write(tmp_path, graph(), slow_graph(), (100.0, 0.001))
    calm = iter([True, True, False])  # it becomes busy while the formats are compared
    with pytest.raises(NotCalmError):
        find(version, lambda cores: next(calm))
    with pytest.raises(NotCalmError):
        find(version, lambda cores: False)


def test_an_idle_server_changes_the_format_and_keeps_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(idle, "SECONDS", 0.01)
    monkeypatch.setattr(servable, "find_fastest", partial(find_fastest, calm=lambda cores: True))
    write(tmp_path, graph(), slow_graph(), (100.0, 0.001))
    dataplane = Dataplane.open(tmp_path, options=Options(EngineOptions(cores=1)))
    target = Target("grey")
    images = {"images": np.full((1, 8, 8, 1), 130, np.uint8)}

    async def main() -> None:
        work = asyncio.create_task(idle.measure_formats_when_idle(dataplane))
        claim = dataplane.budget.claim(1000)  # a request in progress
        await asyncio.sleep(0.1)
        assert dataplane.engine_info(target)["file"] == "model.int8.onnx"
        claim.release()
        end = time.monotonic() + 60
        while not dataplane.served()[0].formats_measured:
            assert time.monotonic() < end
            answer = await dataplane.predict(target, images)
            assert answer.outputs["probabilities"].argmax() == 5
            await asyncio.sleep(0.01)
        assert dataplane.engine_info(target)["file"] == "model.onnx"
        answer = await dataplane.predict(target, images)
        assert answer.outputs["probabilities"].argmax() == 5
        work.cancel()

    with caplog.at_level(logging.INFO, "keras_cnns_serve"):
        asyncio.run(main())
    dataplane.close(5)
    (message,) = [m for m in caplog.messages if m.startswith("grey/1 now uses ")]
    assert message.startswith("grey/1 now uses model.onnx by onnxruntime, float32, 1 thread per")
