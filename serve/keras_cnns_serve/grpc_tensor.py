"""TensorFlow's TensorProto to arrays and back, by the rules of `tf.make_ndarray`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidInputError
from .protos import tensorflow
from .shape import checked_shape

# A type's elements, and the field that has them one by one. half_val has the bits of a float.
_TYPES: dict[str, tuple[Any, str]] = {
    "DT_FLOAT": (np.float32, "float_val"),
    "DT_DOUBLE": (np.float64, "double_val"),
    "DT_INT32": (np.int32, "int_val"),
    "DT_UINT8": (np.uint8, "int_val"),
    "DT_INT16": (np.int16, "int_val"),
    "DT_INT8": (np.int8, "int_val"),
    "DT_STRING": (np.object_, "string_val"),
    "DT_INT64": (np.int64, "int64_val"),
    "DT_BOOL": (np.bool_, "bool_val"),
    "DT_BFLOAT16": (np.uint16, "half_val"),
    "DT_UINT16": (np.uint16, "int_val"),
    "DT_HALF": (np.float16, "half_val"),
    "DT_UINT32": (np.uint32, "uint32_val"),
    "DT_UINT64": (np.uint64, "uint64_val"),
}
_BY_NUMBER = {tensorflow.DataType[name]: (name, *row) for name, row in _TYPES.items()}
_BY_DTYPE = {
    np.dtype(dtype): (tensorflow.DataType[name], field)
    for name, (dtype, field) in _TYPES.items()
    if name != "DT_BFLOAT16"  # numpy has no such type
}
_FLOAT_VAL = b"\x2a"  # on the wire: field 5, packed


def to_array(tensor: Any, name: str, max_bytes: int) -> NDArray[Any]:
    """A TensorProto's values; bfloat16 becomes float32, strings become bytes.

    The values stand in `tensor_content` or, one by one, in the type's own field; there, one
    number fills the whole shape, and the last of several is repeated to its end. Strings are not
    repeated: each is an image, and a few bytes would ask for the work of millions.

    Args:
        tensor: the message.
        name: what to call it in errors.
        max_bytes: refuse a larger shape, which a message of a few bytes can claim.

    Raises:
        InvalidInputError: the type is not one of those here, or type, shape and values disagree.
        InputTooLargeError: the shape has more than `max_bytes`.
    """
    try:
        type_name, dtype, field = _BY_NUMBER[tensor.dtype]
    except KeyError:
        raise InvalidInputError(
            f"{name} has the dtype {tensor.dtype}; this server reads {', '.join(_TYPES)}"
        ) from None
    if tensor.tensor_shape.unknown_rank:
        raise InvalidInputError(f"{name} has an unknown rank; a tensor's values have a shape")
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    shape = checked_shape(sizes, np.dtype(dtype).itemsize, name, max_bytes)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    content = tensor.tensor_content
    if content:
        if type_name == "DT_STRING":
            raise InvalidInputError(f"{name} has strings in tensor_content; give string_val")
        if len(content) != size:
            raise InvalidInputError(
                f"{name} has {len(content):,} bytes in tensor_content, and {size:,} by its shape "
                f"{shape} of {type_name}"
            )
        array = np.frombuffer(content, dtype).reshape(shape)
    else:
        array = _from_values(getattr(tensor, field), type_name, shape, name)
    if type_name == "DT_BFLOAT16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def to_proto(array: NDArray[Any]) -> Any:
    """The TensorProto of an array, its values one by one, where TensorFlow Serving puts them.

    Many clients read `response.outputs["probabilities"].float_val` without a helper.
    """
    number, field = _BY_DTYPE[array.dtype]
    tensor = tensorflow.TensorProto(
        dtype=number, tensor_shape={"dim": [{"size": size} for size in array.shape]}
    )
    if array.dtype == np.float32:
        # Packed floats are their own bytes: no Python object for each.
        content = array.astype("<f4", copy=False).tobytes()
        tensor.MergeFromString(_FLOAT_VAL + _varint(len(content)) + content)
    elif array.dtype == np.float16:
        tensor.half_val.extend(array.view(np.uint16).ravel().tolist())
    else:
        getattr(tensor, field).extend(array.ravel().tolist())
    return tensor


def _from_values(values: Any, type_name: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    count, given = math.prod(shape), len(values)
    dtype = _TYPES[type_name][0]
    if given > count or (given < count and type_name == "DT_STRING"):
        raise InvalidInputError(f"{name} has {given} values, and {count} by its shape {shape}")
    try:
        if type_name == "DT_HALF":
            array = np.fromiter(values, np.uint16, given).view(np.float16)
        elif type_name == "DT_STRING":
            array = np.empty(given, np.object_)  # np.array would look into the strings
            array[:] = values
        else:
            array = np.fromiter(values, dtype, given)
    except OverflowError as error:
        raise InvalidInputError(f"{name} has values that {type_name} lacks: {error}") from error
    if given == count:
        return array.reshape(shape)
    if given == 0:
        array = np.zeros(1, dtype)
    if len(array) == 1:
        return np.broadcast_to(array[0], shape)
    return np.concatenate([array, np.full(count - given, array[-1], array.dtype)]).reshape(shape)


def _varint(number: int) -> bytes:
    """Protobuf's way to write a length."""
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)
