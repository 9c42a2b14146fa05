"""Give memory back to the system while no request needs it."""

import asyncio

from keras_cnns_serve.repository.memory import give_memory_back

from .dataplane import Dataplane

SECONDS = 2.0  # between two looks
WORTH_BYTES = 2**25  # claimed since the last time; less is not worth looking for


async def give_memory_back_when_idle(dataplane: Dataplane) -> None:
    """Give memory back whenever requests have claimed much and none claims any, for ever.

    An engine keeps what its largest batch took, and the allocator what was freed in small blocks,
    such as the objects of parsed JSON.
    """
    budget = dataplane.budget

    def give_back() -> None:
        for servable in dataplane.served():
            servable.loaded.engine.shrink()
        give_memory_back()

    given_back = budget.claimed
    while True:
        await asyncio.sleep(SECONDS)
        if budget.claimed - given_back > WORTH_BYTES and not budget.used:
            given_back = budget.claimed
            await asyncio.to_thread(give_back)
