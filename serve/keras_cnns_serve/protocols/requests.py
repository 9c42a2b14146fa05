"""What the REST protocols share: the endpoints' base, and the header with a request's times."""

import re

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Timing
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.transport.http.asgi import Request


class RestEndpoints:
    """The base of the endpoints of a protocol.

    Args:
        dataplane: Answers.
        timeout: The seconds that a request may take, if it sets no shorter time.
    """

    def __init__(self, dataplane: Dataplane, timeout: float | None = None) -> None:
        self._dataplane = dataplane
        self._timeout = timeout

    def _deadline(self, request: Request) -> float | None:
        """Return the `time.monotonic()` at which a request's time is over, or None.

        Its header X-Request-Timeout may set fewer seconds than the server's timeout.

        Raises:
            InvalidInputError: The header is not a number of seconds.
        """
        timeout = self._timeout
        text = request.header(b"x-request-timeout")
        if text is not None:
            if not re.fullmatch(r"\d{1,9}(\.\d{0,9})?", text):
                raise InvalidInputError(
                    f"X-Request-Timeout must be a number of seconds, not {text!r:.40}"
                )
            timeout = float(text) if timeout is None else min(float(text), timeout)
        return None if timeout is None else request.arrived + timeout


def server_timing(timing: Timing) -> tuple[bytes, bytes]:
    """Return the header Server-Timing: milliseconds in the queue, decoding and computing."""
    milliseconds = (timing.queue * 1e3, timing.decode * 1e3, timing.compute * 1e3)
    return b"server-timing", b"queue;dur=%.3f, decode;dur=%.3f, compute;dur=%.3f" % milliseconds
