"""The answers of a gRPC server that clients have not taken yet.

An answer stays in memory until its client has room for it, and grpcio waits for that without end.
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

LONG = 2**14  # bytes; a call takes more by itself
COPIES = 2  # of an answer: ours, and grpcio's
BLOCKED_SECONDS = (
    5.0  # beyond its time at `MIN_BYTES_PER_SECOND`, after which others need its place
)


@dataclass(frozen=True, slots=True)
class _Answer:
    peer: str
    claim: Claim
    size: int
    begin: float  # by `time.monotonic()`
    end: float  # when it must be taken


class Answers:
    """Answers that are being sent, each a part of the budget.

    Args:
        budget: The memory that all clients may hold.
        timeout: Seconds in which a client must take an answer, beside the time that its connection
            needs at `MIN_BYTES_PER_SECOND` for everything that is being sent on it.
    """

    def __init__(self, budget: Budget, timeout: float) -> None:
        self._budget = budget
        self._timeout = timeout
        self._answers: dict[Call, _Answer] = {}
        self._bytes = Counter[str]()  # by the connection's peer

    def begin(self, call: Call, peer: str, size: int) -> None:
        """Begin to send an answer of so many bytes.

        Raises:
            QueueFullError: The budget has no room for it.
        """
        try:
            claim = self._budget.claim(COPIES * size if size > LONG else 0)
        except ServeError as error:
            raise QueueFullError(
                f"there is no memory for the answer of {size:,} bytes: {error}"
            ) from error
        self._bytes[peer] += size
        now = time.monotonic()
        end = now + self._timeout + self._bytes[peer] / MIN_BYTES_PER_SECOND
        self._answers[call] = _Answer(peer, claim, size, now, end)

    def end(self, call: Call) -> None:
        """Note that a call's answer was taken, or given up."""
        answer = self._answers.pop(call)
        answer.claim.release()
        self._bytes[answer.peer] -= answer.size
        if not self._bytes[answer.peer]:
            del self._bytes[answer.peer]

    def end_blocked(self, calls: Iterable[Call]) -> Call | None:
        """End the connection of one of these calls, if its client has long taken no answer.

        Returns:
            The call; None if there was none.
        """
        now = time.monotonic()
        for call in calls:
            answer = self._answers.get(call)
            if answer and now - answer.begin > BLOCKED_SECONDS + answer.size / MIN_BYTES_PER_SECOND:
                _end(answer.peer)
                return call
        return None

    async def watch(self) -> None:
        """End the connections of clients that do not take their answers, for ever."""
        while True:
            await asyncio.sleep(min(1.0, self._timeout / 4))
            now = time.monotonic()
            for peer in {each.peer for each in self._answers.values() if each.end < now}:
                _end(peer)


def _end(peer: str) -> None:
    client, _ = client_address(peer)
    logger.warning(
        "ended the connection of %s: it does not take its answers", client, extra={"client": client}
    )
    end_connection(peer)
