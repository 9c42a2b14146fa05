import pytest
from starlette.types import Receive, Scope, Send

from keras_cnns_serve.app import create_app
from keras_cnns_serve.asgi import WHOLE
from keras_cnns_serve.dataplane import Dataplane
from keras_cnns_serve.tracing import Tracing
from tests.serve.conftest import Client, grey

sdk = pytest.importorskip("opentelemetry.sdk.trace")


def test_a_span_for_each_request_with_its_times(dataplane: Dataplane) -> None:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    traced = Tracing(create_app(dataplane), provider)

    async def in_one_call(*_: object) -> None:
        raise AssertionError("the answer went past the span")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await traced({**scope, "extensions": {WHOLE: in_one_call}}, receive, send)

    client = Client(app)
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    client.post("/v1/models/grey:classify-image", content=grey(1), headers=headers)
    client.get("/v1/models/grey/versions/2/metadata")
    first, second = spans.get_finished_spans()
    assert first.name == "POST /v1/models/grey:classify-image"
    assert format(first.context.trace_id, "032x") == trace
    assert first.attributes["http.response.status_code"] == 200
    for part in ("queue", "decode", "compute"):
        assert first.attributes[f"keras_cnns_serve.{part}_milliseconds"] >= 0
    assert second.attributes["http.response.status_code"] == 503
    assert second.status.status_code.name == "ERROR"
