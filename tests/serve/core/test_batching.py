import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from keras_cnns_serve.core import batching
from keras_cnns_serve.core.batching import Batcher, BatchOptions, ClosedError, Job
from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.core.metrics import Recorder
from keras_cnns_serve.errors import (
    DamagedImageError,
    DeadlineExceededError,
    ImageTooLargeError,
    QueueFullError,
)

BUDGET = Budget(2**30)


class Doubler:
    """An engine that doubles each image's first pixel, as soon as the test permits it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # the first pixels of each run
        self.go = threading.Event()
        self.go.set()
        self.running = threading.Semaphore(0)  # one for each run that has begun

    def run(self, images: NDArray[np.uint8], names: Sequence[str] | None = None) -> dict[str, Any]:
        self.batches.append(images[:, 0].tolist())
        self.running.release()
        assert self.go.wait(10)
        if 98 in images:
            raise SystemExit("98 ends its thread")
        if 97 in images:
            return {}
        if 99 in images:
            raise RuntimeError("99 cannot be doubled")
        return {name: 2 * images[:, 0].astype(int) for name in names or ("twice", "again")}


class Encoded:
    """A number as text: `12`, or with the cost of decoding it, `12 memory work`."""

    def __init__(self, content: bytes, read: Callable[[bytes], NDArray[np.uint8]]) -> None:
        self._number, *costs = content.split()
        self.memory, self.work = map(int, costs or (1, 1))
        self._read = read

    def read(self) -> NDArray[np.uint8]:
        return self._read(self._number)


class Decoder:
    """Decodes the text of a number, as soon as the test permits it."""

    def __init__(self) -> None:
        self.looked: list[bytes] = []
        self.begun: list[bytes] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, content: bytes) -> Encoded:
        self.looked.append(content[:9])
        return Encoded(content, self._decode)

    def _decode(self, content: bytes) -> NDArray[np.uint8]:
        self.begun.append(content)
        assert self.go.wait(10)
        if content == b"bad":
            raise DamagedImageError("bad")
        return np.array([int(content)], np.uint8)


@pytest.fixture
def engine() -> Doubler:
    return Doubler()


@pytest.fixture
def decode() -> Decoder:
    return Decoder()


@pytest.fixture
def start(engine: Doubler, decode: Decoder) -> Iterator[Callable[..., Batcher]]:
    started: list[Batcher] = []

    def begin(slots: int = 1, workers: int = 2, budget: Budget = BUDGET, **options: Any) -> Batcher:
        settings = BatchOptions(**options)
        recorder = Recorder()
        names = ("twice", "again")
        started.append(
            Batcher(
                engine, decode, lambda _: None, names, slots, workers, settings, recorder, budget
            )
        )
        return started[-1]

    yield begin
    engine.go.set()
    decode.go.set()
    for batcher in started:
        batcher.close()
        assert batcher.waiting == batcher._unfinished == batcher._large_bytes == 0
        assert batcher._budget.used == 0


def job(*values: int, encoded: bool = False, **options: Any) -> Job:
    images = None if encoded else np.array([[v] for v in values], np.uint8)
    contents = [str(value).encode() for value in values] if encoded else []
    settings = {"names": ("twice",), "deadline": None, "priority": 0} | options
    return Job(images, contents, **settings)


async def blocked(batcher: Batcher, engine: Doubler) -> asyncio.Task[Any]:
    """Lets a request occupy a free slot."""
    engine.go.clear()
    first = asyncio.create_task(batcher.answer(job(1)))
    assert await asyncio.to_thread(engine.running.acquire, timeout=10)
    return first


def ask(batcher: Batcher, jobs: Sequence[Job]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(batcher.answer(each)) for each in jobs]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0.001)


async def queued(batcher: Batcher, count: int) -> None:
    await until(lambda: batcher.waiting >= count)


@pytest.mark.parametrize("encoded", [False, True])
def test_each_gets_its_own_answer(start: Callable[..., Batcher], encoded: bool) -> None:
    batcher = start(slots=2)

    async def main() -> None:
        jobs = [job(*range(n, n + 1 + n % 3), encoded=encoded) for n in range(60)]
        for n, answer in enumerate(await asyncio.gather(*ask(batcher, jobs))):
            assert answer.outputs["twice"].tolist() == [2 * v for v in range(n, n + 1 + n % 3)]
            assert list(answer.outputs) == ["twice"]
            assert min(answer.queue, answer.decode, answer.compute) >= 0

    asyncio.run(main())


def test_a_small_image_is_decoded_at_once_but_not_to_be_refused(
    start: Callable[..., Batcher], engine: Doubler, decode: Decoder
) -> None:
    batcher = start(max_queue=1)
    small: list[bytes] = []

    def decode_small(content: bytes) -> NDArray[np.uint8] | None:
        small.append(content)
        return None if content == b"9" else np.array([int(content)], np.uint8)

    batcher._decode_small = decode_small

    async def main() -> None:
        answer = await batcher.answer(job(5, encoded=True))
        assert answer.outputs["twice"].tolist() == [10]
        assert answer.decode > 0
        assert (await batcher.answer(job(9, encoded=True))).outputs["twice"].tolist() == [18]
        assert decode.begun == [b"9"]
        while engine.running.acquire(blocking=False):
            pass  # the runs so far
        first = await blocked(batcher, engine)
        waiting = ask(batcher, [job(2)])
        await queued(batcher, 1)
        with pytest.raises(QueueFullError):
            await batcher.answer(job(3, encoded=True))
        engine.go.set()
        await asyncio.gather(first, *waiting)

    asyncio.run(main())
    assert small == [b"5", b"9"]


def test_what_waits_is_taken_together_and_no_more_than_a_batch(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start(max_batch=4)

    async def main() -> None:
        first = await blocked(batcher, engine)
        others = ask(batcher, [job(value) for value in range(2, 8)])
        await queued(batcher, 6)
        engine.go.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())
    assert engine.batches == [[1], [2, 3, 4, 5], [6, 7]]


def test_a_run_is_bounded_in_seconds(start: Callable[..., Batcher], engine: Doubler) -> None:
    batcher = start(max_run=0.001)

    async def main() -> None:
        first = await blocked(batcher, engine)
        others = ask(batcher, [job(2), job(3), job(4)])
        await queued(batcher, 3)
        await asyncio.sleep(0.002)  # one image takes so long that no run may have two
        engine.go.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())
    assert engine.batches == [[1], [2], [3], [4]]


def test_one_of_two_slots_leaves_the_other_its_share(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start(slots=2, workers=2)

    async def main() -> None:
        busy = [await blocked(batcher, engine) for _ in range(2)]
        others = ask(batcher, [job(value) for value in range(2, 6)])
        await queued(batcher, 4)
        engine.go.set()
        await asyncio.gather(*busy, *others)

    asyncio.run(main())
    assert max(map(len, engine.batches)) == 2


def test_the_next_images_are_decoded_beside_a_run(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start()

    async def main() -> None:
        first = await blocked(batcher, engine)
        following = [job(2, encoded=True), job(3, encoded=True)]
        others = ask(batcher, following)
        # The engine is still busy.
        await until(lambda: all(each.images is not None for each in following))
        engine.go.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())


def test_a_lone_request_waits_only_if_it_was_asked_for(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    eager, patient = start(), start(max_delay=0.2, max_batch=2)

    async def seconds(batcher: Batcher, count: int) -> float:
        started = time.monotonic()
        await asyncio.gather(*ask(batcher, [job(value) for value in range(count)]))
        return time.monotonic() - started

    async def main() -> None:
        assert await seconds(eager, 1) < 0.15
        assert await seconds(patient, 1) >= 0.2
        assert await seconds(patient, 2) < 0.15  # full: there is nothing to wait for

    asyncio.run(main())
    assert engine.batches[-1] == [0, 1]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start(max_queue=3)

    async def main() -> None:
        first = await blocked(batcher, engine)
        others = ask(batcher, [job(2), job(3), job(4)])
        await queued(batcher, 3)
        with pytest.raises(QueueFullError, match="3 requests are already waiting") as refused:
            await batcher.answer(job(5))
        assert refused.value.retry_after >= 1
        others[0].cancel()  # who hung up makes room
        await asyncio.gather(others[0], return_exceptions=True)
        others += ask(batcher, [job(6)])
        await asyncio.sleep(0)
        engine.go.set()
        await asyncio.gather(first, *others[1:])

    asyncio.run(main())
    assert engine.batches == [[1], [3, 4, 6]]


@pytest.mark.parametrize("encoded", [False, True])
def test_neither_the_late_nor_those_that_hung_up_are_computed(
    start: Callable[..., Batcher], engine: Doubler, encoded: bool
) -> None:
    batcher = start(workers=1)

    async def main() -> None:
        first = await blocked(batcher, engine)
        soon = time.monotonic() + 0.05
        late = batcher.answer(job(2, encoded=encoded, deadline=soon))
        gone, kept = ask(batcher, [job(3, encoded=encoded), job(4, encoded=encoded)])
        with pytest.raises(DeadlineExceededError):  # raised in time, although the engine is busy
            await late
        gone.cancel()
        with pytest.raises(DeadlineExceededError):
            await batcher.answer(job(5, deadline=time.monotonic() - 1))
        engine.go.set()
        await asyncio.gather(first, kept)

    asyncio.run(main())
    assert engine.batches == [[1], [4]]


def test_what_would_wait_in_vain_is_refused(start: Callable[..., Batcher], engine: Doubler) -> None:
    batcher = start(max_batch=1)

    async def main() -> None:
        for _ in range(20):  # so that it knows how long a run takes: 50 ms
            first = await blocked(batcher, engine)
            await asyncio.sleep(0.05)
            engine.go.set()
            await first
        first = await blocked(batcher, engine)
        others = ask(batcher, [job(value) for value in range(2, 12)])
        await queued(batcher, 10)
        with pytest.raises(QueueFullError, match="too long for this request's deadline"):
            await batcher.answer(job(12, deadline=time.monotonic() + 0.1))
        engine.go.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())


def test_the_lowest_priority_number_is_first_and_none_is_last(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start(max_batch=1)

    async def main() -> None:
        first = await blocked(batcher, engine)
        jobs = [job(value, priority=priority) for value, priority in [(2, 0), (3, 5), (4, 1)]]
        others = ask(batcher, [*jobs, job(5, priority=5)])
        await queued(batcher, 4)
        engine.go.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())
    assert engine.batches == [[1], [4], [3], [5], [2]]


def test_the_first_of_encoded_images_is_first_wherever_it_is_decoded(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start(max_batch=1)

    async def main() -> None:
        tasks = [await blocked(batcher, engine)]
        for value, priority in [(2, 0), (3, 0), (4, 1)]:
            each = job(value, encoded=True, priority=priority)
            tasks += ask(batcher, [each])
            await until(lambda each=each: each.images is not None)  # type: ignore[misc]
        engine.go.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert engine.batches == [[1], [4], [2], [3]]


def test_who_decodes_in_a_slot_runs_its_share_as_one_batch(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start(slots=2, workers=2, max_run=60.0)

    async def main() -> None:
        busy = [await blocked(batcher, engine) for _ in range(2)]
        others = ask(batcher, [job(value, encoded=True) for value in range(2, 6)])
        await queued(batcher, 4)
        engine.go.set()
        await asyncio.gather(*busy, *others)

    asyncio.run(main())
    assert [2, 3] in engine.batches  # half, though 2 was decoded before 3
    assert batcher._free == 2


def test_a_slow_decoding_keeps_no_run_from_others(
    start: Callable[..., Batcher], engine: Doubler, decode: Decoder
) -> None:
    batcher = start(slots=1, workers=2)

    async def main() -> None:
        decode.go.clear()
        slow = ask(batcher, [job(1, encoded=True)])
        await until(lambda: decode.begun == [b"1"])
        async with asyncio.timeout(10):
            await batcher.answer(job(2))
        decode.go.set()
        await asyncio.gather(*slow)

    asyncio.run(main())
    assert engine.batches == [[2], [1]]


def test_who_hangs_up_while_others_are_decoded_is_not_computed(
    start: Callable[..., Batcher], engine: Doubler, decode: Decoder
) -> None:
    batcher = start(slots=1, workers=1)

    async def main() -> None:
        first = await blocked(batcher, engine)
        soon = time.monotonic() + 0.2
        jobs = [job(2, encoded=True), job(3, encoded=True, deadline=soon), job(4, encoded=True)]
        tasks = ask(batcher, jobs)
        await queued(batcher, 3)
        decode.go.clear()
        engine.go.set()
        await first
        await until(lambda: decode.begun == [b"2"])
        tasks[0].cancel()
        await asyncio.sleep(0.3)
        decode.go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[1], DeadlineExceededError)
        assert not isinstance(answers[2], BaseException)

    asyncio.run(main())
    assert engine.batches == [[1], [4]]


def test_a_lone_run_does_not_say_what_all_do_together(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start(slots=2, workers=2)

    async def learned(value: float, *busy: int) -> float:
        batcher._recent_seconds, batcher._recent_images = value, 1.0
        engine.go.clear()
        tasks = ask(batcher, [job(1) for _ in busy])
        for _ in busy:
            assert await asyncio.to_thread(engine.running.acquire, timeout=10)
        await asyncio.sleep(0.02)
        engine.go.set()
        await asyncio.gather(*tasks)
        return batcher._seconds_per_image

    async def main() -> None:
        assert await learned(0.015, 1) == 0.015  # half of 0.02 would be too little
        assert 0.02 <= await learned(5.0, 1) < 5.0  # no longer than the lone one
        assert await learned(0.001, 1, 2) > 0.004
        assert await learned(5.0, 1, 2) < 5.0

    asyncio.run(main())


def test_who_has_no_slot_decodes_for_the_next_run(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start(slots=1, workers=2, max_run=60.0)

    async def main() -> None:
        first = await blocked(batcher, engine)
        others = ask(batcher, [job(value, encoded=True) for value in range(2, 6)])
        await until(lambda: len(batcher._ready) == 4)
        engine.go.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())
    assert engine.batches == [[1], [2, 3, 4, 5]]


def test_a_slot_comes_back_from_images_that_cannot_be_decoded(
    start: Callable[..., Batcher],
) -> None:
    batcher = start(slots=1, workers=1)

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(DamagedImageError):
                await batcher.answer(Job(None, [b"bad"], ("twice",), None, 0))
        await batcher.answer(job(4, encoded=True))

    asyncio.run(main())
    assert (batcher._free, batcher._unfinished, batcher._decoding) == (1, 0, 0)


def test_decoding_ends_when_the_client_hangs_up(
    start: Callable[..., Batcher], decode: Decoder
) -> None:
    batcher = start()

    async def main() -> None:
        decode.go.clear()
        tasks = ask(batcher, [job(1, 2, 3, encoded=True)])
        await until(lambda: decode.begun == [b"1"])
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        decode.go.set()
        await batcher.answer(job(4, encoded=True))

    asyncio.run(main())
    assert sorted(decode.begun) == [b"1", b"4"]


def test_images_that_do_not_go_together_go_one_by_one(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start()

    async def main() -> None:
        first = await blocked(batcher, engine)
        wide = job(2)
        wide.images = np.array([[2, 2]], np.uint8)
        others = ask(batcher, [wide, job(3)])
        await queued(batcher, 2)
        engine.go.set()
        async with asyncio.timeout(10):
            await asyncio.gather(first, *others)

    asyncio.run(main())
    assert engine.batches == [[1], [2], [3]]


def test_one_bad_request_spoils_no_other(start: Callable[..., Batcher], engine: Doubler) -> None:
    batcher = start()

    async def main() -> None:
        first = await blocked(batcher, engine)
        bad = Job(None, [b"bad"], ("twice",), None, 0)
        tasks = ask(batcher, [job(2), job(99), job(3), bad])
        await asyncio.sleep(0.05)
        engine.go.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [answers[n].outputs["twice"].tolist() for n in (0, 1, 3)] == [[2], [4], [6]]  # type: ignore[union-attr]
        assert str(answers[2]) == "99 cannot be doubled"
        assert isinstance(answers[4], DamagedImageError)

    asyncio.run(main())


def test_requests_for_different_outputs_share_a_run(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start()

    async def main() -> None:
        first = await blocked(batcher, engine)
        tasks = ask(batcher, [job(2), job(3, names=("again",)), job(4, names=())])
        await queued(batcher, 3)
        engine.go.set()
        _, *answers = await asyncio.gather(first, *tasks)
        names = [list(answer.outputs) for answer in answers]
        assert names == [["twice"], ["again"], ["twice", "again"]]

    asyncio.run(main())
    assert engine.batches[1] == [2, 3, 4]


def test_closing_finishes_what_waits_and_takes_no_more(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start()

    async def main() -> None:
        first = await blocked(batcher, engine)
        others = ask(batcher, [job(2), job(3, encoded=True)])
        await queued(batcher, 1)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        with pytest.raises(ClosedError):
            await batcher.answer(job(4))
        engine.go.set()
        await asyncio.gather(first, *others, closing)

    asyncio.run(main())
    assert sorted(value for batch in engine.batches for value in batch) == [1, 2, 3]


@pytest.mark.parametrize("value", [97, 98])
def test_whatever_is_raised_the_slot_comes_back_and_all_have_an_answer(
    start: Callable[..., Batcher], engine: Doubler, value: int
) -> None:
    batcher = start(workers=1)

    async def main() -> None:
        async with asyncio.timeout(10):
            first = await blocked(batcher, engine)
            tasks = ask(batcher, [job(value), job(value)])
            await queued(batcher, 2)
            engine.go.set()
            await first
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(answer) for answer in answers] == [RuntimeError] * 2
            answer = await batcher.answer(job(3))
            assert answer.outputs["twice"].tolist() == [6]

    asyncio.run(main())
    assert batcher._free == 1


def test_a_long_run_stops_when_nobody_waits_for_it(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    batcher = start()

    async def main() -> None:
        async with asyncio.timeout(10):
            whole = await batcher.answer(job(*range(80)))
            assert whole.outputs["twice"].tolist() == [2 * value for value in range(80)]
            engine.batches.clear()
            while engine.running.acquire(blocking=False):
                pass
            engine.go.clear()
            with pytest.raises(DeadlineExceededError):
                await batcher.answer(job(*range(80), deadline=time.monotonic() + 0.05))
            engine.go.set()
            await batcher.answer(job(5))

    asyncio.run(main())
    assert engine.batches == [list(range(32)), [5]]


def large(*values: int, memory: int = 2**23, **options: Any) -> Job:
    contents = [b"%d %d 1" % (value, memory) for value in values]
    settings = {"names": ("twice",), "deadline": None, "priority": 0} | options
    return Job(None, contents, **settings)


class Gate:
    """Lets one number at a time be decoded; numbers below 100 are decoded at once."""

    def __init__(self, decode: Decoder) -> None:
        self._decode = decode._decode
        self._passes = threading.Semaphore(0)
        decode._decode = self  # type: ignore[method-assign]

    def open(self, times: int = 1000) -> None:
        self._passes.release(times)

    def __call__(self, content: bytes) -> NDArray[np.uint8]:
        pixels = self._decode(content)
        if int(content) >= 100:
            assert self._passes.acquire(timeout=10)
        return pixels


@pytest.mark.parametrize("cost", [b"%d 8388608 1", b"%d 1 8388608", b"%d" + b" " * 2**20 + b"1 1"])
def test_small_images_overtake_large_ones_and_one_thread_is_left_to_them(
    start: Callable[..., Batcher], decode: Decoder, cost: bytes
) -> None:
    batcher = start(workers=2)
    gate = Gate(decode)

    async def main() -> None:
        jobs = [Job(None, [cost % value], ("twice",), None, 0) for value in (101, 102)]
        slow = ask(batcher, jobs)
        await until(lambda: decode.begun == [b"101"])
        async with asyncio.timeout(10):
            for value in range(5):
                answer = await batcher.answer(job(value, encoded=True))
                assert answer.outputs["twice"].tolist() == [2 * value]
                await batcher.answer(job(value))
        assert [b for b in decode.begun if int(b) >= 100] == [b"101"]
        gate.open()
        answers = await asyncio.gather(*slow)
        assert [each.outputs["twice"].tolist() for each in answers] == [[202], [204]]

    asyncio.run(main())


def test_an_image_of_many_bytes_is_not_even_looked_at_before_its_turn(
    start: Callable[..., Batcher], decode: Decoder
) -> None:
    batcher = start(workers=2)
    gate = Gate(decode)

    async def main() -> None:
        slow = ask(batcher, [large(101), job(1, encoded=True)])
        await until(lambda: b"101" in decode.begun)
        long = b"102" + b" " * 2**20
        slow += ask(batcher, [Job(None, [b"2", long], ("twice",), None, 0)])
        async with asyncio.timeout(10):
            await batcher.answer(job(3, encoded=True))
        assert b"102" + b" " * 6 not in decode.looked
        gate.open()
        answers = await asyncio.gather(*slow)
        assert answers[2].outputs["twice"].tolist() == [4, 204]

    asyncio.run(main())


def test_requests_of_several_large_images_take_turns(
    start: Callable[..., Batcher], decode: Decoder
) -> None:
    batcher = start(workers=2)
    gate = Gate(decode)

    async def main() -> None:
        tasks = ask(batcher, [large(101, 102, 103), large(111, 112, 113)])
        await until(lambda: decode.begun == [b"101"] and len(batcher._large) == 1)
        gate.open()
        answers = await asyncio.gather(*tasks)
        assert answers[1].outputs["twice"].tolist() == [222, 224, 226]

    asyncio.run(main())
    assert decode.begun == [b"101", b"111", b"102", b"112", b"103", b"113"]


def test_requests_of_several_small_images_take_turns(
    start: Callable[..., Batcher],
    engine: Doubler,
    decode: Decoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "TIME_SLICE", 0.0)
    batcher = start(workers=1)

    async def main() -> None:
        first = await blocked(batcher, engine)
        tasks = ask(batcher, [job(10, 11, 12, encoded=True), job(20, 21, encoded=True)])
        tasks += ask(batcher, [job(30, encoded=True)])
        await queued(batcher, 3)
        engine.go.set()
        answers = await asyncio.gather(first, *tasks)
        assert answers[1].outputs["twice"].tolist() == [20, 22, 24]

    asyncio.run(main())
    assert decode.begun == [b"10", b"20", b"30", b"11", b"21", b"12"]


def test_a_large_image_is_not_overtaken_for_ever(
    start: Callable[..., Batcher],
    engine: Doubler,
    decode: Decoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "OVERTAKING_SECONDS", 0.0)
    batcher = start(workers=1)

    async def main() -> None:
        first = await blocked(batcher, engine)
        patient = large(101)
        patient.is_large = True
        tasks = ask(batcher, [job(2), job(3, encoded=True), patient])
        await queued(batcher, 3)
        engine.go.set()
        await asyncio.gather(first, *tasks)

    asyncio.run(main())
    assert decode.begun == [b"101", b"3"]


def test_the_memory_of_a_large_image_is_claimed_while_it_is_decoded(
    start: Callable[..., Batcher], decode: Decoder
) -> None:
    budget = Budget(2**25)
    batcher = start(workers=4, budget=budget)
    gate = Gate(decode)

    async def main() -> None:
        memory = 2**23 + 1
        tasks = ask(batcher, [large(value, memory=memory) for value in (101, 102, 103)])
        await until(lambda: len(decode.begun) == 2)
        await asyncio.sleep(0.05)  # the third waits, for as much must be free as it takes
        assert budget.used == 2 * memory
        assert len(decode.begun) == 2
        gate.open()
        await asyncio.gather(*tasks)
        with pytest.raises(ImageTooLargeError, match="the image needs 18 MB of memory; the limit"):
            await batcher.answer(large(1, memory=2**24 + 2**20))
        with pytest.raises(
            ImageTooLargeError, match="image 2 of 2: decoding the image needs 18 MB"
        ):
            await batcher.answer(Job(None, [b"1", b"2 17825792 1"], ("twice",), None, 0))

    asyncio.run(main())


def test_a_large_image_waits_for_memory_no_longer_than_somebody_waits_for_it(
    start: Callable[..., Batcher], decode: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MEMORY_SECONDS", 60.0)
    budget = Budget(2**25)
    batcher = start(workers=2, budget=budget)

    async def main() -> None:
        with budget.claim(2**24):
            with pytest.raises(DeadlineExceededError):
                await batcher.answer(large(101, memory=2**23 + 1, deadline=time.monotonic() + 0.05))
            await until(lambda: batcher._large_threads == 0)
            monkeypatch.setattr(batching, "MEMORY_SECONDS", 0.05)
            with pytest.raises(QueueFullError, match="of memory for all clients"):
                await batcher.answer(large(102, memory=2**23 + 1))
            monkeypatch.setattr(batching, "MEMORY_SECONDS", 60.0)
            waiting = ask(batcher, [large(103, memory=2**23 + 1)])
            await asyncio.sleep(0.05)
        await asyncio.gather(*waiting)

    asyncio.run(main())
    assert decode.begun == [b"103"]


def test_large_images_that_wait_leave_memory_to_decode_them(
    start: Callable[..., Batcher], decode: Decoder
) -> None:
    batcher = start(workers=2, budget=Budget(2**25))
    gate = Gate(decode)
    blank = b" " * 2**21

    def photographs(*values: int) -> Job:
        return Job(None, [b"%d" % value + blank for value in values], ("twice",), None, 0)

    async def main() -> None:
        tasks = ask(batcher, [photographs(101, 102)])
        await until(lambda: decode.begun == [b"101"])
        tasks += ask(batcher, [photographs(103)])
        await queued(batcher, 1)
        with pytest.raises(
            QueueFullError, match="6 MB of large images are already waiting; the lim"
        ):
            await batcher.answer(photographs(104, 105))
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        tasks += ask(batcher, [photographs(106)])
        gate.open()
        await asyncio.gather(tasks[0], tasks[2])

    asyncio.run(main())
    assert b"103" not in decode.begun


@pytest.mark.parametrize("end", ["cancelled", "late"])
def test_a_request_that_ends_in_a_queue_holds_no_image(
    start: Callable[..., Batcher], engine: Doubler, decode: Decoder, end: str
) -> None:
    batcher = start(workers=2)

    async def main() -> None:
        first = await blocked(batcher, engine)
        deadline = time.monotonic() + 0.2 if end == "late" else None
        jobs = [job(2, deadline=deadline), job(3, encoded=True, deadline=deadline)]
        tasks = ask(batcher, jobs)
        await until(lambda: jobs[1].images is not None)
        assert jobs[0].images is not None
        if end == "cancelled":
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [each.images for each in jobs] == [None, None]
        engine.go.set()
        await first

    asyncio.run(main())
    assert engine.batches == [[1]]


def test_beside_a_run_of_many_images_others_are_let_in(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    """An image of a small model takes less time in a large run than alone."""
    batcher = start()
    run = engine.run

    def slowly(images: NDArray[np.uint8], names: Sequence[str] | None = None) -> dict[str, Any]:
        time.sleep(0.002)
        return run(images, names)

    engine.run = slowly  # type: ignore[method-assign]

    async def main() -> None:
        for _ in range(20):
            await batcher.answer(job(1))
        engine.batches.clear()
        many = ask(batcher, [job(*[1] * 3000)])
        await until(lambda: len(engine.batches) > 10)
        single = [job(value, deadline=time.monotonic() + 5) for value in range(5)]
        await asyncio.gather(*many, *ask(batcher, single))

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_inference_yields_to_the_threads_that_answer(
    start: Callable[..., Batcher], engine: Doubler
) -> None:
    niceness: list[int] = []
    run = engine.run

    def noted(images: NDArray[np.uint8], names: Sequence[str] | None = None) -> dict[str, Any]:
        niceness.append(os.getpriority(os.PRIO_PROCESS, 0))
        return run(images, names)

    engine.run = noted  # type: ignore[method-assign]
    batcher = start()

    async def ask() -> None:
        await batcher.answer(Job(np.array([[1]], np.uint8), (), (), None, 0))

    asyncio.run(ask())
    assert niceness == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)]
