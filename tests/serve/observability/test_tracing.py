import asyncio
import os
from typing import Any

import grpc
import pytest

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.observability.tracing import exporting_provider, grpc_interceptors, traced
from keras_cnns_serve.protocols.openapi import openapi
from tests.serve.conftest import Client, grey

sdk = pytest.importorskip("opentelemetry.sdk.trace")
pytest.importorskip("opentelemetry.instrumentation.asgi")
pytest.importorskip("opentelemetry.instrumentation.grpc")

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
METHOD = "/a.Service/Method"


def provider_and_spans() -> tuple[Any, Any]:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider, spans


def status_of(span: Any) -> int:
    """The HTTP status, by its stable name or its old one."""
    attributes = span.attributes
    old = attributes.get("http.status_code")
    return int(attributes.get("http.response.status_code", old))


def test_a_span_for_each_request_with_its_times(dataplane: Dataplane) -> None:
    provider, spans = provider_and_spans()
    client = Client(traced(create_app(dataplane), openapi([])["paths"], provider))
    headers = {"traceparent": PARENT}
    client.post("/v1/models/grey:classify-image", content=grey(1), headers=headers)
    client.get("/v1/models/grey/versions/2/metadata")
    first, second = spans.get_finished_spans()
    assert first.name == "POST /v1/models/{model}:classify-image"
    assert first.attributes["http.route"] == "/v1/models/{model}:classify-image"
    assert first.kind.name == "SERVER"
    assert format(first.context.trace_id, "032x") == TRACE
    assert status_of(first) == 200
    assert first.status.status_code.name == "UNSET"
    for part in ("queue", "decode", "compute"):
        assert first.attributes[f"keras_cnns_serve.{part}_milliseconds"] >= 0
    assert second.name == "GET /v1/models/{model}/versions/{version}/metadata"
    assert status_of(second) == 503
    assert second.status.status_code.name == "ERROR"


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v2/models/stats", "GET /v2/models/stats"),
        ("GET", "/v2/models/grey", "GET /v2/models/{model}"),
        (
            "GET",
            "/v2/models/grey/versions/1/ready",
            "GET /v2/models/{model}/versions/{version}/ready",
        ),
        (
            "GET",
            "/v1/models/grey/labels/a/metadata",
            "GET /v1/models/{model}/labels/{label}/metadata",
        ),
        ("GET", "/v1/models/nobody", "GET /v1/models/{model}"),
        ("GET", "/", "GET /"),
        ("GET", "/a/secret/path", "GET"),
        ("GET", "/healthz%0A", "GET"),
        ("HEAD", "/healthz", "HEAD /healthz"),
        ("SECRET", "/healthz", "HTTP /healthz"),
    ],
)
def test_a_span_is_named_by_its_route(
    dataplane: Dataplane, method: str, path: str, name: str
) -> None:
    provider, spans = provider_and_spans()
    client = Client(traced(create_app(dataplane), openapi([])["paths"], provider))
    client.request(method, path)
    (span,) = spans.get_finished_spans()
    assert span.name == name


async def answer(requests: Any, context: Any) -> Any:
    """Answer a call with its message, or as the message says."""
    async for request in requests:
        if request == b"fail":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if request == b"wait":
            await asyncio.sleep(60)
        yield request


async def answer_once(_: Any, context: Any) -> bytes:
    """Answer a call that has one message, which is read when its handler has begun."""
    message: bytes = await context.read()
    return message


def test_a_span_for_each_grpc_call(caplog: pytest.LogCaptureFixture) -> None:
    provider, spans = provider_and_spans()

    async def run() -> None:
        server = grpc.aio.server(interceptors=grpc_interceptors(provider))
        methods = {
            "Method": grpc.stream_stream_rpc_method_handler(answer),
            "Once": grpc.stream_unary_rpc_method_handler(answer_once),
        }
        service = grpc.method_handlers_generic_handler("a.Service", methods)
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary(METHOD)
                metadata = (("traceparent", PARENT), ("a-bin", b"\xff"))
                assert await call(b"hello", metadata=metadata) == b"hello"
                assert await channel.unary_unary("/a.Service/Once")(b"again") == b"again"
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await call(b"fail")
                assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
                with pytest.raises(grpc.aio.AioRpcError) as unknown:
                    await channel.unary_unary("/a.Service/Unknown")(b"hello")
                assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED
                waiting = call(b"wait")
                await asyncio.sleep(0.2)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                async with asyncio.timeout(20):
                    while len(spans.get_finished_spans()) < 4:
                        await asyncio.sleep(0.01)
        finally:
            await server.stop(0)

    asyncio.run(asyncio.wait_for(run(), 60))
    good, once, failed, cancelled = spans.get_finished_spans()
    assert {span.name for span in (good, failed, cancelled)} == {METHOD}
    assert once.name == "/a.Service/Once"
    assert format(good.context.trace_id, "032x") == TRACE
    assert good.attributes["rpc.grpc.status_code"] == 0
    assert failed.attributes["rpc.grpc.status_code"] == grpc.StatusCode.UNAVAILABLE.value[0]
    assert failed.status.status_code.name == "ERROR"
    assert caplog.messages == []  # a call that is cancelled leaves no traceback


def test_spans_are_exported_by_their_stable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    name = "OTEL_SEMCONV_STABILITY_OPT_IN"
    monkeypatch.setenv(name, "to be restored")
    del os.environ[name]
    provider = exporting_provider()
    provider.shutdown()
    assert os.environ[name] == "http"
    assert provider.resource.attributes["service.name"] == "keras-cnns-serve"
