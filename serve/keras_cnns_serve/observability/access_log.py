"""The access log: a line of JSON for each response over HTTP or gRPC."""

import logging
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.types import Scope

from .logs import ACCESS


class AccessLog:
    """Log a line of JSON for each response, at INFO, to the logger `keras_cnns_serve.access`."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(ACCESS)

    def log_http(self, scope: Scope, status: int, seconds: float) -> None:
        """Log an HTTP response; the status 499 means that the client disconnected."""
        headers = dict(reversed(scope["headers"]))  # of repeated headers, the first one counts
        client = scope.get("client")
        self._write(
            {
                "client": client[0] if client else None,
                "method": scope["method"],
                "path": scope["path"],
                "query": scope["query_string"].decode("latin-1"),
                "status": status,
                "milliseconds": round(seconds * 1e3, 3),
                "request_bytes": _integer(headers.get(b"content-length")),
                "user_agent": _text(headers.get(b"user-agent")),
                "request_id": _text(headers.get(b"x-request-id")),
                "traceparent": _text(headers.get(b"traceparent")),
            }
        )

    def log_grpc(self, method: str, client: str, code: str, seconds: float) -> None:
        """Log the end of a gRPC call, with the name of its status code."""
        self._write(
            {
                "client": client,
                "method": "gRPC",
                "path": method,
                "status": code,
                "milliseconds": round(seconds * 1e3, 3),
            }
        )

    def _write(self, entry: dict[str, Any]) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | entry
        present = {key: value for key, value in line.items() if value not in (None, "")}
        self._logger.info("%s", orjson.dumps(present).decode())


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")[:200]


def _integer(value: bytes | None) -> int | None:
    return int(value) if value and value.isdigit() else None
