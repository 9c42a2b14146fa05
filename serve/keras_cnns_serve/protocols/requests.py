"""What the REST protocols share: a request's deadline, and the header with its times."""

import re

from keras_cnns_serve.core.prediction import Timing
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.transport.http.asgi import Request


def deadline_of(request: Request, timeout: float | None) -> float | None:
    """Return the `time.monotonic()` at which a request's time is over, or None.

    Args:
        request: Its header X-Request-Timeout may set a number of seconds.
        timeout: The limit in seconds that the header cannot exceed, if any.

    Raises:
        InvalidInputError: The header is not a number of seconds.
    """
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
