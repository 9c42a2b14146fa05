"""What the REST protocols share: the endpoints' base, and the header with a request's times."""

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

_ARRAY_BYTES = 4  # of the arrays that come of a byte of JSON, at most
_Arguments = ParamSpec("_Arguments")
_Parsed = TypeVar("_Parsed")


class RestEndpoints:
    """The base of the endpoints of a protocol.

    Args:
        dataplane: Answers.
        timeout: The seconds that a request may take, if it sets no shorter time.
        max_json_bytes: The longest JSON in a request.
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
        """Return a body that is JSON alone; raise as `Request.body` does."""
        return await request.body(deadline, self._max_json_bytes, "JSON")

    async def _parse_json(
        self,
        request: Request,
        deadline: float | None,
        tensor: Tensor | None,
        length: int,
        function: Callable[Concatenate[bytes, _Arguments], _Parsed],
        body: bytes,
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Parsed:
        """Call a function that parses the JSON at a body's beginning.

        Args:
            request: Its claim grows while the JSON is parsed.
            deadline: The `time.monotonic()` at which the request's time is over, or None.
            tensor: The images, if the JSON may contain them as lists.
            length: Of the JSON.
            function: Parses the body.
            body: The body.
            arguments: The function's further arguments.
            options: The function's keyword arguments.

        Raises:
            InputTooLargeError: The JSON is longer, or has more in it, than a request may have.
            QueueFullError: Other requests hold the memory that it takes.
            DeadlineExceededError: The deadline has passed.
        """
        held = request.claim.size
        request.claim.add(memory_to_parse(body, length, self._max_json_bytes, tensor))
        parsed = await parse(length, deadline, function, body, *arguments, **options)
        request.claim.shrink(held + _ARRAY_BYTES * length)
        return parsed

    def _deadline(self, request: Request) -> float | None:
        """Return the `time.monotonic()` at which a request's time is over, or None.

        Its header X-Request-Timeout may set fewer seconds than the server's timeout.

        Raises:
            InvalidInputError: The header is not a number of seconds.
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
    """Return the header Server-Timing: milliseconds in the queue, decoding and computing."""
    milliseconds = (timing.queue * 1e3, timing.decode * 1e3, timing.compute * 1e3)
    return b"server-timing", b"queue;dur=%.3f, decode;dur=%.3f, compute;dur=%.3f" % milliseconds
