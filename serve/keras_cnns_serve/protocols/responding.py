"""Make large responses in a thread, so that the event loop can answer other requests meanwhile."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.core.threads import Threads
from keras_cnns_serve.errors import InputTooLargeError

# Bytes of memory for each number, and for each number with a label, while a response is made.
NUMBER_BYTES, LABEL_BYTES = 40, 150
_INLINE_VALUES = 10_000  # making a smaller response is faster than waking up a thread
_RESPONSES = Threads("respond", 1)  # one thread, because it holds the interpreter's lock
_Arguments = ParamSpec("_Arguments")
_Response = TypeVar("_Response")


async def respond(
    budget: Budget,
    deadline: float | None,
    num_values: int,
    memory: int,
    function: Callable[_Arguments, _Response],
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _Response:
    """Call a function that makes a response; if the response has many values, call it in a thread.

    Args:
        budget: the memory budget, part of which is claimed in the meantime.
        deadline: the value of `time.monotonic()` after which the client needs no answer.
        num_values: the number of values from which the response is made.
        memory: the memory for making the response, in bytes.
        function: the function.
        arguments: its arguments.
        options: its keyword arguments.

    Raises:
        InputTooLargeError: the response needs more memory than one request can have.
        QueueFullError: there is not enough free memory.
        DeadlineExceededError: the deadline has passed.
    """
    if num_values <= _INLINE_VALUES:
        return function(*arguments, **options)
    try:
        claim = budget.claim(memory)
    except InputTooLargeError as error:
        raise InputTooLargeError(f"the response is too large: {error}; ask for less") from error
    with claim:
        return await _RESPONSES.call(deadline, function, *arguments, **options)
