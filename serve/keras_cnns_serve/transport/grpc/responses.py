"""Limit the time and memory of gRPC responses that clients have not received yet.

A response stays in memory until flow control permits sending it, and grpcio would wait for this
forever.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from keras_cnns_serve.core.limits import Budget, Claim
from keras_cnns_serve.errors import QueueFullError, ServeError

from .arrivals import MIN_BYTES_PER_SECOND, Call
from .guard import client_address, end_connection

logger = logging.getLogger(__name__)

# Memory is claimed only for responses with more bytes than this. For a shorter response, the call
# itself needs more memory than the response.
MIN_CLAIMED_BYTES = 2**14
_COPIES = 2  # number of copies of a response: ours and grpcio's
# A stream can be ended to make room for another one if sending its response has taken longer than
# these seconds plus the time that the response needs at `MIN_BYTES_PER_SECOND`.
BLOCKED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Response:
    peer: str
    claim: Claim
    size: int  # bytes
    begin: float  # time.monotonic()
    end: float  # time.monotonic() at which the client must have received it


class Responses:
    """The responses that are being sent, for which memory is claimed.

    Args:
        budget: the memory budget of all clients.
        timeout: seconds within which a client must receive a response, in addition to the time
            that all responses on its connection need at `MIN_BYTES_PER_SECOND`.
    """

    def __init__(self, budget: Budget, timeout: float) -> None:
        self._budget = budget
        self._timeout = timeout
        self._responses: dict[Call, _Response] = {}
        self._bytes = Counter[str]()  # bytes that are being sent, by peer

    def begin(self, call: Call, peer: str, size: int) -> None:
        """Begin to send a response of `size` bytes.

        Raises:
            QueueFullError: there is not enough free memory.
        """
        try:
            claim = self._budget.claim(_COPIES * size if size > MIN_CLAIMED_BYTES else 0)
        except ServeError as error:
            raise QueueFullError(
                f"there is no memory for the response of {size:,} bytes: {error}"
            ) from error
        self._bytes[peer] += size
        now = time.monotonic()
        end = now + self._timeout + self._bytes[peer] / MIN_BYTES_PER_SECOND
        self._responses[call] = _Response(peer, claim, size, now, end)

    def end(self, call: Call) -> None:
        """Release the memory of a call's response, which was sent or abandoned."""
        response = self._responses.pop(call)
        response.claim.release()
        self._bytes[response.peer] -= response.size
        if not self._bytes[response.peer]:
            del self._bytes[response.peer]

    def end_blocked(self, calls: Iterable[Call]) -> Call | None:
        """Find one of these calls whose client does not receive its response, and disconnect it.

        Returns:
            The call, or None if there is no such call.
        """
        now = time.monotonic()
        for call in calls:
            response = self._responses.get(call)
            if response is None:
                continue
            if now - response.begin > BLOCKED_SECONDS + response.size / MIN_BYTES_PER_SECOND:
                _end(response.peer)
                return call
        return None

    async def watch(self) -> None:
        """End the connections of clients that do not receive their responses; never return."""
        while True:
            await asyncio.sleep(min(1.0, self._timeout / 4))
            now = time.monotonic()
            for peer in {each.peer for each in self._responses.values() if each.end < now}:
                _end(peer)


def _end(peer: str) -> None:
    client, _ = client_address(peer)
    logger.warning(
        "ended the connection of %s: the client does not receive its responses",
        client,
        extra={"client": client},
    )
    end_connection(peer)
