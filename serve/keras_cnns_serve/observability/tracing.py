"""Traces with OpenTelemetry's instrumentation, which the extra `opentelemetry` installs.

A span gets the name of its route, such as `POST /v1/models/{model}:predict`, and not the path that
a client sent, so that there are few different names. OpenTelemetry's environment variables, such as
OTEL_EXPORTER_OTLP_ENDPOINT, configure the destination of the spans.
"""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}


def traced(app: ASGIApp, templates: Iterable[str], provider: Any = None) -> ASGIApp:
    """Return an application that creates a span for each request, with the time of each stage.

    Args:
        app: the application.
        templates: the paths of its routes, such as `/v1/models/{model}:predict`.
        provider: OpenTelemetry's TracerProvider; None: the global one.
    """
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.trace import get_current_span

    find = _finder(templates)

    def details(scope: Scope) -> tuple[str, dict[str, str]]:
        method = scope.get("method", "")
        name = method if method in _METHODS else "HTTP"
        template = find(scope["path"])
        return (name, {}) if template is None else (f"{name} {template}", {"http.route": template})

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                get_current_span().set_attributes(_timing(message.get("headers", ())))
            await send(message)

        await app(scope, receive, send_timed)

    middleware: ASGIApp = OpenTelemetryMiddleware(
        timed,
        default_span_details=details,
        tracer_provider=provider,
        exclude_spans=["receive", "send"],  # one span for a request, not one for each event
    )
    return middleware


def grpc_interceptors(provider: Any = None) -> list[Any]:
    """Return the interceptors of a grpc.aio server that create a span for each call.

    Args:
        provider: OpenTelemetry's TracerProvider; None: the global one.
    """
    from opentelemetry.instrumentation.grpc import aio_server_interceptor

    return [aio_server_interceptor(tracer_provider=provider)]


def exporting_provider() -> Any:
    """Return a TracerProvider that sends spans as OTLP over HTTP; environment variables apply.

    Call this function before `traced`, so that the HTTP attributes get the names of OpenTelemetry's
    stable semantic conventions, unless an environment variable chooses others.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", "keras-cnns-serve")
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _finder(templates: Iterable[str]) -> Callable[[str], str | None]:
    """Return a function from a path to its template; templates without parameters have priority."""
    templates = sorted(set(templates), key=lambda template: template.count("{"))
    patterns = [
        (re.compile(re.sub(r"\\{\w+\\}", "[^/:]+", re.escape(template))), template)
        for template in templates
    ]

    def find(path: str) -> str | None:
        return next((name for pattern, name in patterns if pattern.fullmatch(path)), None)

    return find


def _timing(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, float]:
    """Return the durations in the header Server-Timing as attributes."""
    text = next((value for key, value in headers if key == b"server-timing"), b"").decode()
    parts = (part.partition(";dur=") for part in text.split(", ") if part)
    return {
        f"keras_cnns_serve.{name}_milliseconds": float(milliseconds)
        for name, _, milliseconds in parts
    }
