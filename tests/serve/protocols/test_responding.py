import asyncio
import threading

import pytest

from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.errors import InputTooLargeError
from keras_cnns_serve.protocols.responding import respond


@pytest.mark.parametrize(("values", "in_thread"), [(10_000, False), (10_001, True)])
def test_a_large_response_is_made_in_a_thread_with_a_claim(values: int, in_thread: bool) -> None:
    budget = Budget(10_000_000)
    seen = asyncio.run(
        respond(budget, None, values, 100, lambda: (threading.current_thread(), budget.used))
    )
    assert (seen[0] is not threading.main_thread()) == in_thread
    assert seen[1] == (1_000_100 if in_thread else 0)
    assert budget.used == 0


def test_a_response_that_is_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(InputTooLargeError, match="needs about 20 MB of memory"):
        asyncio.run(respond(Budget(30_000_000), None, 200_000, 100, list))
