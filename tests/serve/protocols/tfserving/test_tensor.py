"""TensorFlow's own conversions are the reference."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.protocols.tfserving.tensor import conversion_size, to_array, to_proto
from keras_cnns_serve.protos import tensorflow

MAX = 10_000
DTYPES = ["float32", "float64", "int32", "uint8", "int16", "int8", "int64", "bool", "uint16"]
DTYPES += ["float16", "uint32", "uint64"]


def ours(message: Any) -> Any:
    """Convert TensorFlow's message to ours, by serializing and parsing it."""
    return tensorflow.TensorProto.FromString(message.SerializeToString())


def theirs(message: Any) -> Any:
    return TensorProto.FromString(message.SerializeToString())


def read(message: Any) -> Any:
    return to_array(message, "x", MAX, Budget(2**20).claim())


def values(dtype: str, shape: tuple[int, ...] = (2, 3)) -> Any:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (), (1,), (1, 5)])
def test_contents_are_read_as_they_were_written(dtype: str, shape: tuple[int, ...]) -> None:
    expected = values(dtype, shape)
    array = read(ours(tf.make_tensor_proto(expected)))
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_tensorflow_reads(dtype: str) -> None:
    expected = values(dtype)
    message = to_proto(expected)
    assert not message.tensor_content
    array = tf.make_ndarray(theirs(message))
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(read(message), expected)


@pytest.mark.parametrize("count", [1, 31, 32, 100_000])
def test_floats_stand_in_float_val(count: int) -> None:
    expected = np.linspace(-1, 1, count, dtype=np.float32)
    assert list(theirs(to_proto(expected)).float_val) == expected.tolist()


def test_strings() -> None:
    expected = np.array([[b"\xff\xd8\x00\x00", b""], [b"abc", b"\x00"]], np.object_)
    array = read(ours(tf.make_tensor_proto(expected)))
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(tf.make_ndarray(theirs(to_proto(expected))), expected)


def test_bfloat16_is_widened() -> None:
    expected = tf.constant([1.5, -2.0, 3.25], tf.bfloat16)
    contents = tf.make_tensor_proto(expected)
    one_by_one = TensorProto(
        dtype=contents.dtype,
        tensor_shape=contents.tensor_shape,
        half_val=np.frombuffer(contents.tensor_content, np.uint16).tolist(),
    )
    for message in (contents, one_by_one):
        array = read(ours(message))
        assert array.dtype == np.float32
        assert array.tolist() == [1.5, -2.0, 3.25]


@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        ("DT_FLOAT", {"float_val": [0.5]}),
        ("DT_FLOAT", {"float_val": [1, 2, 3]}),
        ("DT_FLOAT", {}),
        ("DT_UINT8", {"int_val": [7]}),
        ("DT_INT64", {"int64_val": [7, 8]}),
        ("DT_HALF", {"half_val": [0x3C00]}),
        ("DT_BOOL", {"bool_val": [True]}),
    ],
)
def test_fewer_values_than_the_shape_has(dtype: str, given: dict[str, Any]) -> None:
    message = tensorflow.TensorProto(
        dtype=dtype, tensor_shape={"dim": [{"size": 2}, {"size": 3}]}, **given
    )
    expected = tf.make_ndarray(theirs(message)) if given else np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(read(message), expected)


def shaped(*sizes: int, **fields: Any) -> dict[str, Any]:
    return {
        "dtype": "DT_UINT8",
        "tensor_shape": {"dim": [{"size": size} for size in sizes]},
    } | fields


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, InvalidInputError, "x has the dtype 0; the supported dtypes are DT_FLOAT"),
        ({"dtype": 8}, InvalidInputError, "x has the dtype 8"),  # complex64
        ({"dtype": 104}, InvalidInputError, "x has the dtype 104"),  # a reference
        (
            shaped(2, tensor_content=b"a"),
            InvalidInputError,
            "1 bytes in tensor_content, but its shape needs 2",
        ),
        (shaped(-1, tensor_content=b"a"), InvalidInputError, "an integer of at least 0"),
        (shaped(-1, -1, tensor_content=b"a"), InvalidInputError, "an integer of at least 0"),
        (shaped(*[1] * 9, tensor_content=b"a"), InvalidInputError, "at most 8 sizes"),
        (shaped(2**62, 2**62, 2**62), InputTooLargeError, "has more than 10,000 bytes"),
        (shaped(2**32, 2**32, tensor_content=b"a"), InputTooLargeError, "has more than 10,000"),
        (shaped(0, 2**62, 2**62), InputTooLargeError, "has more than 10,000 bytes"),
        (shaped(10_001, int_val=[1]), InputTooLargeError, "has more than 10,000 bytes"),
        (shaped(2, int_val=[1, 2, 3]), InvalidInputError, "has 3 values, but its shape needs 2"),
        (shaped(1, int_val=[256]), InvalidInputError, "values outside the range of DT_UINT8"),
        (shaped(1, int_val=[-1]), InvalidInputError, "values outside the range of DT_UINT8"),
        (
            shaped(1_000, dtype="DT_STRING", string_val=[b"a", b"b"]),
            InvalidInputError,
            "has 2 values, but its shape needs 1000",
        ),
        (shaped(2, dtype="DT_STRING"), InvalidInputError, "has 0 values, but its shape needs 2"),
        (
            shaped(1, dtype="DT_STRING", tensor_content=b"a"),
            InvalidInputError,
            "strings in tensor_content",
        ),
        (
            {"dtype": "DT_UINT8", "tensor_shape": {"unknown_rank": True}},
            InvalidInputError,
            "unknown rank",
        ),
    ],
)
def test_what_is_wrong_is_said(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(tensorflow.TensorProto(**fields))


@pytest.mark.parametrize(
    ("fields", "claimed"),
    [
        (shaped(1000, tensor_content=bytes(1000)), 0),  # a view of the message
        (shaped(1000, int_val=[1, 2]), 1000),
        (shaped(1000, dtype="DT_FLOAT", float_val=[1, 2]), 4000),
        (shaped(1000, dtype="DT_BFLOAT16", half_val=[1, 2]), 6000),
        (shaped(1000, dtype="DT_UINT8", int_val=[1] * 1000), 1000),
        (shaped(1000, dtype="DT_BFLOAT16", tensor_content=bytes(2000)), 4000),
    ],
)
def test_the_memory_of_an_array_is_claimed(fields: dict[str, Any], claimed: int) -> None:
    message, claim = tensorflow.TensorProto(**fields), Budget(2**20).claim()
    to_array(message, "x", MAX, claim)
    assert claim.size == claimed
    assert (conversion_size(message) >= 1000) == bool(claimed)


def test_an_array_for_which_there_is_no_memory_is_not_created() -> None:
    message = tensorflow.TensorProto(**shaped(1000, int_val=[1, 2]))
    with pytest.raises(InputTooLargeError, match="the request needs about"):
        to_array(message, "x", MAX, Budget(1000).claim())
