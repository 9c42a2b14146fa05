"""Threads beside the event loop: each kind of work that takes long has its own.

Work of one kind then waits for its own kind alone, and never for the other kinds.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from keras_cnns_serve.errors import DeadlineExceededError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Threads:
    """A few threads that call functions; they start when they are needed.

    Args:
        name: The threads' name.
        count: How many there are.
    """

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def call(
        self,
        deadline: float | None,
        function: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Result:
        """Return what a function returns.

        Args:
            deadline: The `time.monotonic()` until which the result is waited for; None: for ever.
            function: The function.
            arguments: Its arguments.
            options: Its keyword arguments.

        Raises:
            DeadlineExceededError: The deadline has passed; the call may still be in progress.
        """
        work = partial(function, *arguments, **options)
        waiting = asyncio.get_running_loop().run_in_executor(self._pool, work)
        return await until(deadline, waiting, "the request's time was over while it was read")


async def until(deadline: float | None, waiting: "asyncio.Future[_Result]", late: str) -> _Result:
    """Return what a future results in, and cancel it at the deadline.

    Args:
        deadline: The `time.monotonic()` until which it is waited for; None: for ever.
        waiting: The future.
        late: What the error says.

    Raises:
        DeadlineExceededError: The deadline has passed.
    """
    limit = asyncio.timeout(None if deadline is None else deadline - time.monotonic())
    try:
        async with limit:
            return await waiting
    except TimeoutError:
        if not limit.expired():  # it is the future's own
            raise
        raise DeadlineExceededError(late) from None


PARSING = Threads("parse", 1)  # of one thread alone: it holds the interpreter nearly all the time
UNPACKING = Threads("unpack", 1)
