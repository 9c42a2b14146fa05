"""Large responses are made in a thread, and their memory is claimed meanwhile."""

import asyncio
import base64
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.core.threads import Threads
from keras_cnns_serve.errors import InputTooLargeError
from keras_cnns_serve.protocols import responding
from keras_cnns_serve.protocols.oip.grpc import OpenInferenceGrpc
from keras_cnns_serve.protocols.oip.rest import _slow_bytes
from keras_cnns_serve.protocols.responding import respond
from keras_cnns_serve.protocols.tfserving.grpc import TensorFlowServingGrpc
from keras_cnns_serve.protos import inference, tensorflow_serving
from tests.serve.conftest import Client, grey


@pytest.mark.parametrize(("values", "in_thread"), [(10_000, False), (10_001, True)])
def test_a_large_response_is_made_in_a_thread_with_a_claim(values: int, in_thread: bool) -> None:
    budget = Budget(10_000_000)
    seen = asyncio.run(
        respond(budget, None, values, 10**6, lambda: (threading.current_thread(), budget.used))
    )
    assert (seen[0] is not threading.main_thread()) == in_thread
    assert seen[1] == (10**6 if in_thread else 0)
    assert budget.used == 0


def test_a_response_that_is_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(
        InputTooLargeError, match=r"response is too large: .* about 20 MB of memory"
    ):
        asyncio.run(respond(Budget(30_000_000), None, 200_000, 20_000_000, list))


def test_an_error_releases_the_claim() -> None:
    budget = Budget(10_000_000)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(respond(budget, None, 20_000, 10**6, lambda: 1 // 0))
    assert budget.used == 0


PIXELS = np.full((2, 8, 8, 1), 130, np.uint8)
SHAPE = {"dim": [{"size": size} for size in PIXELS.shape]}
EXAMPLE = {"features": {"feature": {"image/encoded": {"bytes_list": {"value": [grey(130)]}}}}}
TASK = {"model_spec": {"name": "grey"}, "input": {"example_list": {"examples": [EXAMPLE]}}}
IMAGES = {"name": "images", "datatype": "UINT8", "shape": PIXELS.shape}
FIVE = {"parameters": {"classification": {"int64_param": 5}}}


def post(path: str, body: Any) -> Callable[[Dataplane], object]:
    def ask(dataplane: Dataplane) -> object:
        answer = Client(create_app(dataplane)).request("POST", path, json=body)
        assert answer.status_code == 200, answer.text
        return answer

    return ask


def call(kind: str, method: str, request: Any) -> Callable[[Dataplane], object]:
    def ask(dataplane: Dataplane) -> object:
        is_oip = kind == "oip"
        service = (
            OpenInferenceGrpc(dataplane) if is_oip else TensorFlowServingGrpc(dataplane, 2**20)
        )
        return asyncio.run(getattr(service, method)(request, None))

    return ask


@pytest.mark.parametrize(
    "ask",
    [
        post("/v1/models/grey:predict", {"instances": PIXELS.tolist()}),
        post(
            "/v1/models/grey:classify",
            {"examples": [{"image/encoded": {"b64": base64.b64encode(grey(130)).decode()}}]},
        ),
        post("/v2/models/grey/infer", {"inputs": [IMAGES | {"data": PIXELS.ravel().tolist()}]}),
        call(
            "tensorflow",
            "predict",
            tensorflow_serving.PredictRequest(
                model_spec={"name": "grey"},
                inputs={
                    "images": {
                        "dtype": "DT_UINT8",
                        "tensor_shape": SHAPE,
                        "tensor_content": PIXELS.tobytes(),
                    }
                },
            ),
        ),
        call("tensorflow", "classify", tensorflow_serving.ClassificationRequest(**TASK)),
        call(
            "oip",
            "model_infer",
            inference.ModelInferRequest(
                model_name="grey", inputs=[IMAGES], raw_input_contents=[PIXELS.tobytes()]
            ),
        ),
        call(
            "oip",
            "model_infer",
            inference.ModelInferRequest(
                model_name="grey",
                inputs=[IMAGES],
                raw_input_contents=[PIXELS.tobytes()],
                outputs=[{"name": "probabilities"} | FIVE],
            ),
        ),
    ],
)
def test_each_protocol_makes_its_large_responses_in_a_thread(
    ask: Callable[[Dataplane], object], dataplane: Dataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[int] = []

    class Counting(Threads):
        async def call(self, *arguments: Any, **options: Any) -> Any:
            claimed.append(dataplane.budget.used)
            return await super().call(*arguments, **options)

    monkeypatch.setattr(responding, "_INLINE_VALUES", 0)
    monkeypatch.setattr(responding, "_RESPONSES", Counting("respond", 1))
    ask(dataplane)
    assert claimed
    assert min(claimed) > 0
    assert dataplane.budget.used == 0


@pytest.mark.parametrize(
    ("datatype", "slow"),
    [("UINT8", False), ("BF16", True), (r"\u0042F16", True), ("base64", True)],
)
def test_binary_data_that_is_converted_is_slow_to_parse(datatype: str, slow: bool) -> None:
    head = json.dumps({"datatype": "X"}).replace("X", datatype).encode()
    body = head + bytes(1000)
    assert _slow_bytes(body, len(head)) == (len(body) if slow else len(head))
    assert _slow_bytes(head, len(head)) == len(head)
