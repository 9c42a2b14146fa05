"""The memory that a message needs is known before it is parsed."""

import asyncio
import time
from typing import Any

import pytest

from keras_cnns_serve.errors import DeadlineExceededError, InputTooLargeError
from keras_cnns_serve.protos import inference, tensorflow_serving
from keras_cnns_serve.transport.grpc.messages import (
    MAX_FIELDS,
    SHORT_BYTES,
    memory_of,
    memory_of_async,
)

INFER = inference.ModelInferRequest
PREDICT = tensorflow_serving.PredictRequest
CLASSIFY = tensorflow_serving.ClassificationRequest


def nested(tag: bytes, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return tag + length + bytes([size]) + content


MANY = {
    "empty inputs of a map": (PREDICT, b"\x12\x00" * 10**6),
    "empty inputs": (INFER, b"\x2a\x00" * 10**6),
    "empty parameters": (INFER, b"\x22\x00" * 10**6),
    "empty raw contents": (INFER, b"\x3a\x00" * 10**6),
    "empty examples": (CLASSIFY, nested(b"\x12", nested(b"\x0a", b"\x0a\x00" * 10**6))),
    "unknown numbers": (INFER, b"\x78\x00" * 10**6),
    "groups": (INFER, b"\x7b\x7c" * 10**6),
    "after a group": (INFER, b"\x7b\x7c" + b"\x2a\x00" * 10**6),
    "before damage": (INFER, b"\x2a\x00" * 10**6 + b"\xff" * 11),
}


@pytest.mark.parametrize("name", MANY)
def test_a_message_of_many_fields_is_refused(name: str) -> None:
    kind, message = MANY[name]
    with pytest.raises(InputTooLargeError, match=f"more than {MAX_FIELDS:,} fields"):
        memory_of(message, kind.DESCRIPTOR)


def images(count: int) -> Any:
    request = CLASSIFY()
    for _ in range(count):
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(bytes(1000))
        example.features.feature["label"].int64_list.value.extend(range(10))
    return request


def test_requests_of_a_thousand_images_are_accepted() -> None:
    message = images(1000).SerializeToString()
    assert 3 * len(message) < memory_of(message, CLASSIFY.DESCRIPTOR) < 7 * len(message)


def test_raw_bytes_take_little_and_numbers_more() -> None:
    raw = INFER(raw_input_contents=[bytes(10**6)]).SerializeToString()
    assert 3 * 10**6 < memory_of(raw, INFER.DESCRIPTOR) < 3.1 * 10**6
    tensor = INFER.InferInputTensor(contents={"uint_contents": bytes(10**6)})
    numbers = INFER(inputs=[tensor]).SerializeToString()
    assert memory_of(numbers, INFER.DESCRIPTOR) > 19 * 10**6


@pytest.mark.parametrize("end", [b"", b"\x0a", b"\x0a\xff", b"\xff" * 11, b"\x0e\x00"])
def test_damage_is_left_to_the_parser(end: bytes) -> None:
    message = nested(b"\x3a", bytes(SHORT_BYTES)) + end
    assert memory_of(message, INFER.DESCRIPTOR) < 4 * len(message)


def test_a_short_message_is_counted_as_if_it_were_all_fields() -> None:
    assert memory_of(b"\x2a\x00" * 50, INFER.DESCRIPTOR) == 6700


def test_many_fields_are_counted_beside_the_event_loop() -> None:
    message = b"\x2a\x00" * (MAX_FIELDS - 1) + nested(b"\x3a", bytes(SHORT_BYTES))

    async def main() -> int:
        counting = asyncio.create_task(memory_of_async(message, INFER.DESCRIPTOR, None))
        turns = 0
        while not counting.done():
            turns += 1
            await asyncio.sleep(0)
        assert await counting == memory_of(message, INFER.DESCRIPTOR)
        with pytest.raises(DeadlineExceededError):
            await memory_of_async(message, INFER.DESCRIPTOR, time.monotonic() - 1)
        with pytest.raises(InputTooLargeError, match=f"more than {MAX_FIELDS:,} fields"):
            await memory_of_async(message + b"\x2a\x00", INFER.DESCRIPTOR, None)
        return turns

    assert asyncio.run(main()) > 3


def test_few_fields_are_counted_at_once() -> None:
    message = INFER(raw_input_contents=[bytes(10**6)]).SerializeToString()
    with pytest.raises(StopIteration) as counted:  # without a turn of an event loop
        memory_of_async(message, INFER.DESCRIPTOR, None).send(None)
    assert counted.value.value == memory_of(message, INFER.DESCRIPTOR)
