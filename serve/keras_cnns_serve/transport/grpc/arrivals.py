"""Limit the number of incomplete messages at a gRPC server, and the time for their arrival.

grpcio buffers a message until it is complete, and does not report how many bytes have arrived. Each
incomplete message is therefore assumed to have the maximum length, and memory is claimed for that
length. A message that arrives together with its headers needs no claim.
"""

import asyncio
import contextlib
import time
from typing import Any

from keras_cnns_serve.core.limits import BODY_SECONDS, Budget, Claim
from keras_cnns_serve.errors import QueueFullError, ServeError, TooSlowError

MIN_BYTES_PER_SECOND = 100_000  # applied to the maximum length, since the real length is unknown
_MIN_SECONDS = 0.03  # minimum time for each incomplete message, even if other calls wait
_MAX_WAIT_SECONDS = 1.0  # maximum time that a call waits for its turn
_POLL_SECONDS = 0.01  # interval of checks while calls wait
_IDLE_POLL_SECONDS = 0.1  # interval of checks otherwise
_MAX_WAITING = 1000  # maximum number of calls that wait for their turn; a call needs 25 KB

Call = asyncio.Task[Any]


class Arrivals:
    """A limited number of turns; a call may receive its message while it has a turn.

    A short message arrives together with the headers of its call, and its turn ends immediately. If
    no turn is free for a call, the message whose turn began first is aborted, provided that it has
    had `_MIN_SECONDS`. Messages that arrive slowly or never therefore do not block other calls. The
    newest waiting call gets the next turn, because its client is the most likely to be still
    waiting.

    Args:
        count: the maximum number of incomplete messages.
        max_bytes: the maximum length of a message, which determines the time for its arrival.
        budget: the memory budget of all clients.
    """

    def __init__(self, count: int, max_bytes: int, budget: Budget) -> None:
        self.seconds = BODY_SECONDS + max_bytes / MIN_BYTES_PER_SECOND
        self.count = count
        self.started: dict[Call, float] = {}  # start of each call's turn, the earliest first
        self.aborted: dict[Call, ServeError] = {}  # why each call was aborted
        self._max_bytes = max_bytes
        self._budget = budget
        self._claims: dict[Call, Claim] = {}  # claimed memory of incomplete messages
        self._free = count
        self._waiting: dict[asyncio.Future[None], float] = {}  # start of the wait for each turn
        self._has_waiting = asyncio.Event()

    async def begin(self, call: Call) -> None:
        """Wait for a call's turn.

        Raises:
            QueueFullError: the call has waited for `_MAX_WAIT_SECONDS`; or `_MAX_WAITING` calls are
                waiting, another one arrives, and this call has waited the longest.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait()
        self.started[call] = time.monotonic()

    def end(self, call: Call) -> None:
        """End a call's turn."""
        if self.started.pop(call, None) is not None:
            if self._claims and (claim := self._claims.pop(call, None)):
                claim.release()
            self._pass_turn()

    async def watch(self) -> None:
        """Abort messages that take too long; never return.

        Checking all messages at intervals is cheaper than a timer for each call.
        """
        while True:
            asleep = time.monotonic()
            if self._waiting:
                pause = _POLL_SECONDS
                await asyncio.sleep(pause)
            else:
                pause = min(_IDLE_POLL_SECONDS, self.seconds / 4)
                self._has_waiting.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._has_waiting.wait()
            now = time.monotonic()
            late = max(0.0, now - asleep - pause)
            # If the event loop is late, it may not have processed messages that have arrived.
            min_seconds = _MIN_SECONDS + late
            self._abort_slow(now, min_seconds)
            self._claim_memory(now, min_seconds)
            for future, since in list(self._waiting.items()):
                if since < now - _MAX_WAIT_SECONDS:
                    self._reject(future)

    def _abort_slow(self, now: float, min_seconds: float) -> None:
        needed = len(self._waiting)  # number of turns for which calls wait
        for call, since in list(self.started.items()):
            if since < now - self.seconds:
                self.aborted[call] = TooSlowError(
                    "the message arrives too slowly: it was not complete after "
                    f"{self.seconds:.1f} seconds"
                )
            elif needed > 0 and since < now - min_seconds:
                self.aborted[call] = QueueFullError(
                    "the message arrived too slowly while other calls were waiting to send theirs: "
                    f"only {self.count} messages can arrive at the same time"
                )
            else:
                break
            needed -= 1
            call.cancel()

    def _claim_memory(self, now: float, min_seconds: float) -> None:
        for call, since in self.started.items():
            if since > now - min_seconds:
                break
            if call in self._claims or call in self.aborted:
                continue
            try:
                self._claims[call] = self._budget.claim(self._max_bytes)
            except ServeError as error:
                self.aborted[call] = QueueFullError(
                    "the message has not arrived completely, and there is no memory to wait for "
                    f"the rest of it: {error}"
                )
                call.cancel()

    async def _wait(self) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            self._reject(next(iter(self._waiting)))
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = time.monotonic()
        self._has_waiting.set()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_turn()
            raise
        finally:
            self._waiting.pop(turn, None)

    def _reject(self, turn: asyncio.Future[None]) -> None:
        self._waiting.pop(turn, None)
        if not turn.done():
            turn.set_exception(
                QueueFullError(
                    f"the message cannot be received, because the messages of {self.count} other "
                    "calls are still arriving"
                )
            )

    def _pass_turn(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popitem()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
