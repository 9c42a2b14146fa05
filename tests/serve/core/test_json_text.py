"""The memory that JSON needs is known before it is parsed."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from keras_cnns_serve.core import json_text
from keras_cnns_serve.core.json_text import loads, memory_to_parse
from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.repository.manifest import Tensor

MAX = 8 * 2**20
RGB = Tensor("images", "uint8", (None, 32, 32, 3))
GREY = Tensor("images", "uint8", (None, 8, 8, 1))
MEASURE = """
import resource, sys, orjson
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
body = eval(sys.argv[1])
before = peak()
kept = orjson.loads(body)
print(len(body), body.count(b"["), body.count(b"{"), peak() - before)
"""
# The kinds of JSON that need most memory: lists, objects, numbers, strings of several lengths.
TEXTS = [
    "b'[' + b'[],' * 1000000 + b'0]'",
    "b'[' + b'[[[]]],' * 500000 + b'0]'",
    "b'[' + b'[1,2,3],' * 400000 + b'0]'",
    "b'[' + b'1,' * 1500000 + b'0]'",
    "b'[' + b'{},' * 1000000 + b'0]'",
    "b'{' + b','.join(b'\"%d\":0' % n for n in range(300000)) + b'}'",
    "b'[' + b'\"ab\",' * 600000 + b'0]'",
]


@pytest.mark.parametrize("text", TEXTS)
def test_json_takes_no_more_than_was_claimed(text: str) -> None:
    output = subprocess.run([sys.executable, "-c", MEASURE, text], capture_output=True, check=True)
    length, lists, objects, taken = map(int, output.stdout.split())
    claimed = memory_to_parse(b" " * length, length, MAX)
    claimed += json_text.BYTES_OF_LIST * lists + json_text.BYTES_OF_OBJECT * objects
    assert taken < claimed + 2**20


@pytest.mark.parametrize("tensor", [RGB, GREY])
@pytest.mark.parametrize("count", [1, 2, 37])
def test_images_are_accepted(tensor: Tensor, count: int) -> None:
    shape = (count, *(size or 1 for size in tensor.shape[1:]))
    images: Any = np.full(shape, 255).tolist()
    nested = {"name": "images", "datatype": "UINT8", "shape": shape, "data": images}
    rows = [{"images": image} for image in images]
    for document in (
        {"instances": images},
        {"instances": rows},
        {"inputs": {"images": images}},
        {"inputs": [nested], "parameters": {}},
    ):
        for separators in ((",", ":"), (", ", ": ")):
            text = json.dumps(document, separators=separators).encode()
            assert memory_to_parse(text, len(text), MAX, tensor) > 18 * len(text)


def test_a_thousand_encoded_images_are_accepted() -> None:
    document = {"instances": [{"images": {"b64": "abcd"}}] * 1024}
    text = json.dumps(document).encode()
    assert memory_to_parse(text, len(text), MAX, RGB)
    features = {"image/encoded": [{"b64": "abcd"}], "label": [3], "weights": [0.5, 0.5]}
    text = json.dumps({"examples": [features] * 1024}).encode()
    assert memory_to_parse(text, len(text), MAX)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" + b"[]," * 100_000 + b"0]", r"100,001 lists; 33 images of shape \[N, 32, 32"),
        (b"[" + b"[[[[" * 10_000, "40,001 lists"),
        (b"[" + b"{}," * 100_000 + b"0]", "100,000 objects; a request can have at most 8,448"),
        (b"[" + b"0," * MAX, "more than 8,388,608 bytes; send binary tensors"),
    ],
)
def test_what_no_request_has_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(InputTooLargeError, match=message):
        memory_to_parse(text, len(text), MAX, RGB)


def test_only_the_json_of_a_body_is_counted() -> None:
    body = b"{}" + b"[" * 10**6
    assert memory_to_parse(body, 2, MAX, RGB) < 1000


@pytest.mark.parametrize(
    "text",
    [
        rb'["\ud800"]',
        rb'["\ud800", NaN]',
        rb'{"\udfff": Infinity}',
        b'["\xed\xa0\x80", NaN]',  # the surrogate as UTF-8
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match="JSON Parse error"):
        loads(text)
