"""Thread pools for slow work outside the event loop, one for each kind of work.

Work of one kind never waits for work of another kind.
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
    """A thread pool whose threads start when they are needed.

    Args:
        name: prefix of the threads' names.
        count: the number of threads.
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
        """Call a function in a thread and return its result.

        Args:
            deadline: the value of `time.monotonic()` until which to wait for the result; None: no
                limit.
            function: the function.
            arguments: its arguments.
            options: its keyword arguments.

        Raises:
            DeadlineExceededError: the deadline has passed; the call may still be in progress.
        """
        work = partial(function, *arguments, **options)
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        message = "the request's deadline passed while the request was being processed"
        return await until(deadline, future, message)


async def until(deadline: float | None, future: "asyncio.Future[_Result]", message: str) -> _Result:
    """Wait for a future and return its result; cancel it at the deadline.

    Args:
        deadline: the value of `time.monotonic()` until which to wait; None: no limit.
        future: the future.
        message: the message of the error.

    Raises:
        DeadlineExceededError: the deadline has passed.
    """
    limit = asyncio.timeout(None if deadline is None else deadline - time.monotonic())
    try:
        async with limit:
            return await future
    except TimeoutError:
        if not limit.expired():  # the future itself raised it
            raise
        raise DeadlineExceededError(message) from None


PARSING = Threads("parse", 1)  # one thread, because parsing holds the interpreter's lock
DECOMPRESSION = Threads("decompress", 1)
