"""The messages that arrive at a gRPC server, of which only so many may be incomplete.

grpcio keeps what has come of a message before our code sees any of it, and does not say how much
that is: each incomplete message counts as the longest that may be sent. A message that comes at
once costs nothing; one that does not holds that much of the budget.
"""

import asyncio
import contextlib
import time
from typing import Any

from keras_cnns_serve.core.limits import BODY_SECONDS, Budget, Claim
from keras_cnns_serve.errors import QueueFullError, ServeError, TooSlowError

MIN_BYTES_PER_SECOND = (
    100_000  # bytes a second of the longest message: how much has come is not known
)
PATIENCE = 0.03  # seconds that an incomplete message has in any case
WAIT = 1.0  # seconds that a call waits for its message's turn
LOOK = 0.01  # seconds between two looks while calls wait, and otherwise:
LOOK_AT_REST = 0.1
MAX_WAITING = 1000  # calls that wait for their message's turn; a call takes 25 KB

Call = asyncio.Task[Any]


class Arrivals:
    """The turns of calls to receive their message.

    A short message comes with its call's headers, and its turn is over at once. If there is no free
    turn for a call, the message that has been arriving longest is given up, if that is longer than
    `PATIENCE`: messages that come slowly or never do not keep out the others. Of the calls that
    wait, the newest is first: it is the likeliest to have a client that still waits.

    Args:
        count: How many messages may be incomplete at the same time.
        max_bytes: Of a message; it gives the time in which one must arrive.
        budget: The memory that all clients may hold.
    """

    def __init__(self, count: int, max_bytes: int, budget: Budget) -> None:
        self.seconds = BODY_SECONDS + max_bytes / MIN_BYTES_PER_SECOND
        self.count = count
        self.since: dict[Call, float] = {}  # when each turn began, the longest first
        self.given_up: dict[Call, ServeError] = {}  # calls that are cancelled, and why
        self._max_bytes = max_bytes
        self._budget = budget
        self._held: dict[Call, Claim] = {}  # of messages that do not come at once
        self._free = count
        self._waiting: dict[asyncio.Future[None], float] = {}  # since when, the longest first
        self._crowded = asyncio.Event()

    async def begin(self, call: Call) -> None:
        """Wait for a call's turn.

        Raises:
            QueueFullError: It did not come.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait()
        self.since[call] = time.monotonic()

    def end(self, call: Call) -> None:
        """End a call's turn."""
        if self.since.pop(call, None) is not None:
            if self._held and (claim := self._held.pop(call, None)):
                claim.release()
            self._pass_on()

    async def watch(self) -> None:
        """Give up messages that take too long, for ever.

        One look at all of them now and then is cheaper than a timer for each call.
        """
        while True:
            asleep = time.monotonic()
            if self._waiting:
                pause = LOOK
                await asyncio.sleep(pause)
            else:
                pause = min(LOOK_AT_REST, self.seconds / 4)
                self._crowded.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._crowded.wait()
            now = time.monotonic()
            late = max(0.0, now - asleep - pause)
            patience = PATIENCE + late  # it may not have looked yet at what has come
            self._give_up(now, patience)
            self._hold(now, patience)
            for future, since in list(self._waiting.items()):
                if since < now - WAIT:
                    self._refuse(future)

    def _give_up(self, now: float, patience: float) -> None:
        wanted = len(self._waiting)
        for call, since in list(self.since.items()):
            if since < now - self.seconds:
                self.given_up[call] = TooSlowError(
                    "the message comes too slowly: it was not complete after "
                    f"{self.seconds:.1f} seconds"
                )
            elif wanted > 0 and since < now - patience:
                self.given_up[call] = QueueFullError(
                    f"the message came too slowly while others waited: {self.count} can come at "
                    "the same time"
                )
            else:
                break
            wanted -= 1
            call.cancel()

    def _hold(self, now: float, patience: float) -> None:
        for call, since in self.since.items():
            if since > now - patience:
                break
            if call in self._held or call in self.given_up:
                continue
            try:
                self._held[call] = self._budget.claim(self._max_bytes)
            except ServeError as error:
                self.given_up[call] = QueueFullError(
                    f"the message came too slowly while there was no memory for it: {error}"
                )
                call.cancel()

    async def _wait(self) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._refuse(next(iter(self._waiting)))
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = time.monotonic()
        self._crowded.set()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise
        finally:
            self._waiting.pop(turn, None)

    def _refuse(self, turn: asyncio.Future[None]) -> None:
        self._waiting.pop(turn, None)
        if not turn.done():
            turn.set_exception(
                QueueFullError(f"the messages of {self.count} calls are not complete")
            )

    def _pass_on(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popitem()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
