"""The base class of REST endpoints, and the header Server-Timing."""

import re
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.json_text import MAX_BYTES, memory_to_parse
from keras_cnns_serve.core.prediction import Timing
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.protocols.parsing import parse
from keras_cnns_serve.repository.manifest import Tensor
from keras_cnns_serve.transport.http.asgi import Request

_ARRAY_BYTES = 4  # maximum size of the parsed arrays, in bytes for each byte of JSON
_Arguments = ParamSpec("_Arguments")
_Parsed = TypeVar("_Parsed")


class RestEndpoints:
    """The base class of the endpoints of a protocol.

    Args:
        dataplane: the data plane.
        timeout: maximum duration of a request in seconds; a request can specify a shorter one.
        max_json_bytes: maximum size of the JSON in a request.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        timeout: float | None = None,
        max_json_bytes: int = MAX_BYTES,
    ) -> None:
        self._dataplane = dataplane
        self._timeout = timeout
        self._max_json_bytes = max_json_bytes

    async def _json_body(self, request: Request, deadline: float | None) -> bytes:
        """Return a body that consists of JSON; the errors are those of `Request.body`."""
        return await request.body(deadline, self._max_json_bytes, "JSON")

    async def _parse_json(
        self,
        request: Request,
        deadline: float | None,
        tensor: Tensor | None,
        length: int,
        slow: int,
        function: Callable[Concatenate[bytes, _Arguments], _Parsed],
        body: bytes,
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Parsed:
        """Call a function that parses the JSON at the start of a body.

        Args:
            request: the request, whose claim of memory grows during parsing.
            deadline: `time.monotonic()` of the request's deadline, or None.
            tensor: the description of the input, if the JSON may contain images as lists.
            length: length of the JSON in bytes.
            slow: the number of bytes of the body that are slow to parse.
            function: the function that parses the body.
            body: the body.
            arguments: further arguments of the function.
            options: keyword arguments of the function.

        Raises:
            InputTooLargeError: the JSON is too long, or has too many lists or objects.
            QueueFullError: there is not enough free memory.
            DeadlineExceededError: the deadline has passed.
        """
        size = request.claim.size
        request.claim.add(memory_to_parse(body, length, self._max_json_bytes, tensor))
        parsed = await parse(slow, deadline, function, body, *arguments, **options)
        request.claim.shrink(size + _ARRAY_BYTES * length)
        return parsed

    def _deadline(self, request: Request) -> float | None:
        """Return `time.monotonic()` of the request's deadline, or None.

        The header X-Request-Timeout can specify a shorter time than the server's timeout.

        Raises:
            InvalidInputError: the header is not a number of seconds.
        """
        return self._deadline_of(request.header(b"x-request-timeout"), request.arrived)

    def _deadline_of(self, text: str | None, arrived: float) -> float | None:
        timeout = self._timeout
        if text is not None:
            if not re.fullmatch(r"\d{1,9}(\.\d{0,9})?", text):
                raise InvalidInputError(
                    f"X-Request-Timeout must be a number of seconds, not {text!r:.40}"
                )
            timeout = float(text) if timeout is None else min(float(text), timeout)
        return None if timeout is None else arrived + timeout


def server_timing(timing: Timing) -> tuple[bytes, bytes]:
    """Return the header Server-Timing, with the milliseconds of waiting, decoding and computing."""
    milliseconds = (timing.queue * 1e3, timing.decode * 1e3, timing.compute * 1e3)
    return b"server-timing", b"queue;dur=%.3f, decode;dur=%.3f, compute;dur=%.3f" % milliseconds
