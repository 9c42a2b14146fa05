"""OpenTelemetry: the extra `opentelemetry`. A span for every request, with where its time went.

Where to send spans is told by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT.
"""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .asgi import WHOLE


class Tracing:
    """ASGI middleware that makes a span of each request.

    Args:
        app: the application.
        provider: OpenTelemetry's TracerProvider.
    """

    def __init__(self, app: ASGIApp, provider: Any) -> None:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._app = app
        self._extract = extract
        self._server = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)
        self._tracer = provider.get_tracer("keras_cnns_serve")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request within a span, a child of the client's."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        with self._tracer.start_as_current_span(
            f"{scope['method']} {scope['path']}",
            self._extract(carrier),
            self._server,
            attributes,
        ) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(self._failed)
                    for name, milliseconds in _timing(message["headers"]).items():
                        span.set_attribute(f"keras_cnns_serve.{name}_milliseconds", milliseconds)
                await send(message)

            # Not the answer in one call, which would go past us.
            extensions = {k: v for k, v in scope.get("extensions", {}).items() if k != WHOLE}
            await self._app({**scope, "extensions": extensions}, receive, noted)


def exporting_provider() -> Any:
    """A TracerProvider that sends spans as the environment says, by OTLP over HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "keras-cnns-serve"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _timing(headers: list[tuple[bytes, bytes]]) -> dict[str, float]:
    """The parts of the header Server-Timing."""
    text = next((value for key, value in headers if key == b"server-timing"), b"").decode()
    parts = (part.partition(";dur=") for part in text.split(", ") if part)
    return {name: float(milliseconds) for name, _, milliseconds in parts}
