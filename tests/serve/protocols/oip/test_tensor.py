"""tritonclient's own serialization is the reference."""

import json
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
)

from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.protocols.oip.tensor import (
    DATATYPES,
    DTYPES,
    decode_base64,
    from_raw,
    from_values,
    to_raw,
    to_values,
)

NUMBERS = [name for name in DTYPES if name not in ("BYTES", "BF16")]
WORDS = np.array([[b"\xff\xd8\x00", b""], [b"abc", b"\x00"]], np.object_)


def strings(*elements: bytes) -> np.ndarray[Any, Any]:
    return np.array(elements, np.object_)


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (), (1, 5)])
def test_numbers(datatype: str, shape: tuple[int, ...]) -> None:
    expected = np.arange(np.prod(shape)).reshape(shape).astype(DTYPES[datatype])
    assert datatype == np_to_triton_dtype(expected.dtype) == DATATYPES[expected.dtype]
    assert to_raw(expected) == expected.tobytes()
    for array in (
        from_raw(expected.tobytes(), datatype, shape, "x"),
        from_raw(memoryview(expected.tobytes()), datatype, shape, "x"),
        from_values(expected.ravel().tolist(), datatype, shape, "x"),
        *([from_values(expected.tolist(), datatype, shape, "x")] if shape else []),
    ):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_raw_numbers_are_not_copied() -> None:
    content = bytes(12)
    assert np.shares_memory(
        from_raw(content, "UINT8", [3, 4], "x"), np.frombuffer(content, np.uint8)
    )


def test_bytes() -> None:
    serialized = serialize_byte_tensor(WORDS).item()
    np.testing.assert_array_equal(from_raw(serialized, "BYTES", [2, 2], "x"), WORDS)
    assert to_raw(WORDS) == serialized
    np.testing.assert_array_equal(deserialize_bytes_tensor(to_raw(WORDS)), WORDS.ravel())


def test_text() -> None:
    array = from_values(["é", "b"], "BYTES", [2], "x")
    assert array.tolist() == ["é".encode(), b"b"]
    assert to_values(array) == ["é", "b"]


def test_values_are_written_flat() -> None:
    assert to_values(np.arange(6).reshape(2, 3)).tolist() == [0, 1, 2, 3, 4, 5]


def test_bfloat16_is_widened() -> None:
    numbers = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    array = from_raw(numbers.tobytes(), "BF16", [1, 2], "x")
    assert array.dtype == np.float32
    assert array.tolist() == [[1.5, -2.0]]


def test_base64() -> None:
    assert decode_base64(strings(b"/9g=", b""), "x").tolist() == [b"\xff\xd8", b""]
    with pytest.raises(InvalidInputError, match="x is not base64"):
        decode_base64(strings(b"/9g=", b"%"), "x")


def test_nan_and_infinity() -> None:
    values = json.loads("[NaN, Infinity, 1]")
    np.testing.assert_array_equal(from_values(values, "FP32", [3], "x"), [np.nan, np.inf, 1])


@pytest.mark.parametrize(
    ("content", "datatype", "shape", "message"),
    [
        (b"", "INT4", [0], "the datatype 'INT4'; the datatypes are BOOL, UINT8"),
        (b"", None, [0], "the datatype None"),
        (b"ab", "UINT8", [3], "2 bytes, but its shape needs 3"),
        (b"ab", "FP32", [1], "2 bytes, but its shape needs 4"),
        (b"ab", "UINT8", [-2], "an integer of at least 0"),
        (b"ab", "UINT8", [-1, -2], "an integer of at least 0"),
        (b"ab", "UINT8", [2.0], "an integer of at least 0"),
        (b"a", "UINT8", [True], "an integer of at least 0"),
        (b"ab", "UINT8", [1] * 9, "at most 8 sizes"),
        (b"", "UINT8", [1_000_000], "0 bytes, but its shape needs 1,000,000"),
        (b"\x01", "BYTES", [1], "truncated: its element 1 ends at byte 4, but it has only 1 b"),
        (
            b"\x02\0\0\0a",
            "BYTES",
            [1],
            "truncated: its element 1 ends at byte 6, but it has only 5 b",
        ),
        (b"\xff\xff\xff\xffa", "BYTES", [1], "ends at byte 4,294,967,299, but it has only 5 b"),
        (b"\x01\0\0\0a", "BYTES", [2], "1 values, but its shape needs 2"),
    ],
)
def test_wrong_bytes(content: bytes, datatype: Any, shape: list[Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        from_raw(content, datatype, shape, "x")


@pytest.mark.parametrize("shape", [[2**62, 2**62], [0, 2**62, 2**62], [2**41]])
def test_a_shape_that_no_memory_has(shape: list[int]) -> None:
    with pytest.raises(InputTooLargeError, match="has more than"):
        from_raw(b"", "UINT8", shape, "x")


@pytest.mark.parametrize(
    ("values", "datatype", "shape", "message"),
    [
        ([1, 2], "UINT8", [3], "2 values, but its shape needs 3"),
        ([1, 256], "UINT8", [2], "values outside the range of UINT8"),
        ([1, -1], "UINT8", [2], "values outside the range of UINT8"),
        ([10**400], "FP32", [1], "values outside the range of FP32"),
        (
            [1, 2.5],
            "UINT8",
            [2],
            "has values of type float; values of the datatype UINT8 must have the type int",
        ),
        ([1, True], "UINT8", [2], "has values of type bool"),
        ([1], "BOOL", [1], "datatype BOOL must have the type bool"),
        (
            ["a", None],
            "BYTES",
            [2],
            "has values of type NoneType; values of the datatype BYTES must have the type bytes or",
        ),
        (
            ["1"],
            "FP32",
            [1],
            "has values of type str; values of the datatype FP32 must have the type float or int",
        ),
        ([{}], "FP32", [1], "has values of type dict"),
        ([[1, 2], [3]], "UINT8", [3], "ragged"),
        ([[1, 2], 3], "UINT8", [3], "ragged"),
        ([[[[[[[[[[1]]]]]]]]]], "UINT8", [1], "too deep"),
        ([1], "BF16", [1], "must be sent as raw bytes"),
    ],
)
def test_wrong_values(values: Any, datatype: str, shape: list[int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        from_values(values, datatype, shape, "x")


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ([8_000_000], InputTooLargeError, "can have at most 1,024 encoded images"),
        ([5], InvalidInputError, "more than the 5 elements of its shape"),
    ],
)
def test_elements_are_counted_before_they_are_made(
    shape: list[int], error: type[Exception], message: str
) -> None:
    content = bytes(4 * 8_000_000)  # as many empty elements
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            from_raw(content, "BYTES", shape, "images")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
