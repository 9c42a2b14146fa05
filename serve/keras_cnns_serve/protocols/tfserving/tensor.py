"""Convert TensorFlow's TensorProto to arrays and back, like `tf.make_ndarray`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.limits import MAX_RANK, Claim, checked_shape
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.protocols.parsing import bytes_array, from_bfloat16
from keras_cnns_serve.protos import tensorflow

# For each type of TensorFlow: the NumPy type, and the field for single values. The field half_val
# contains the bits of the numbers.
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
STRING = tensorflow.DataType["DT_STRING"]
_BY_NUMBER = {tensorflow.DataType[name]: (name, *row) for name, row in _TYPES.items()}
_BY_DTYPE = {
    np.dtype(dtype): (tensorflow.DataType[name], field)
    for name, (dtype, field) in _TYPES.items()
    if name != "DT_BFLOAT16"  # NumPy has no such type
}


def conversion_size(tensor: Any) -> int:
    """Return the approximate number of bytes or values that `to_array` converts, or 0."""
    if tensor.tensor_content and tensor.dtype != tensorflow.DataType["DT_BFLOAT16"]:
        return 0
    sizes: list[int] = [dim.size for dim in tensor.tensor_shape.dim[: MAX_RANK + 1]]
    return max(int(tensor.ByteSize()), math.prod(sizes))


def to_array(tensor: Any, name: str, max_bytes: int, claim: Claim) -> NDArray[Any]:
    """Return the values of a TensorProto; bfloat16 becomes float32, strings become bytes.

    The values are either in `tensor_content`, or they are single values in the field of their type.
    If there are fewer single values than the shape needs, the last number is repeated. Strings are
    not repeated, because each string is an image: a message of a few bytes could otherwise cause
    the work of millions of images.

    Args:
        tensor: the message.
        name: the tensor's name in error messages.
        max_bytes: maximum size of the array, which can be much larger than the message.
        claim: receives the memory of an array that is not a view of the message.

    Raises:
        QueueFullError: there is not enough free memory.
        InvalidInputError: the type is not supported, or the values do not fit the type and shape.
        InputTooLargeError: the array would be larger than `max_bytes`.
    """
    try:
        type_name, dtype, field = _BY_NUMBER[tensor.dtype]
    except KeyError:
        raise InvalidInputError(
            f"{name} has the dtype {tensor.dtype}; the supported dtypes are {', '.join(_TYPES)}"
        ) from None
    if tensor.tensor_shape.unknown_rank:
        raise InvalidInputError(f"{name} has an unknown rank; a tensor with values needs a shape")
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    shape = checked_shape(sizes, np.dtype(dtype).itemsize, name, max_bytes)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    content = tensor.tensor_content
    if content:
        if type_name == "DT_STRING":
            raise InvalidInputError(
                f"{name} has strings in tensor_content; send them in string_val"
            )
        if len(content) != size:
            raise InvalidInputError(
                f"{name} has {len(content):,} bytes in tensor_content, but its shape needs "
                f"{size:,}: {shape} of {type_name}"
            )
        array = np.frombuffer(content, dtype).reshape(shape)
    else:
        array = _from_values(getattr(tensor, field), type_name, shape, name, claim)
    if type_name != "DT_BFLOAT16":
        return array
    claim.add(2 * size)  # for the numbers as float32
    return from_bfloat16(array)


def to_proto(array: NDArray[Any]) -> Any:
    """Return the TensorProto of an array.

    Like TensorFlow Serving, write single values and not `tensor_content`, because many clients read
    `response.outputs["probabilities"].float_val` directly.
    """
    number, field = _BY_DTYPE[array.dtype]
    tensor = tensorflow.TensorProto(
        dtype=number, tensor_shape={"dim": [{"size": size} for size in array.shape]}
    )
    if array.dtype == np.float16:
        tensor.half_val.extend(array.view(np.uint16).ravel().tolist())
    else:
        getattr(tensor, field).extend(array.ravel().tolist())
    return tensor


def _from_values(
    values: Any, type_name: str, shape: tuple[int, ...], name: str, claim: Claim
) -> NDArray[Any]:
    count, received = math.prod(shape), len(values)
    dtype = _TYPES[type_name][0]
    if received > count or (received < count and type_name == "DT_STRING"):
        raise InvalidInputError(
            f"{name} has {received} values, but its shape needs {count}: {shape}"
        )
    if type_name != "DT_STRING":
        claim.add(count * np.dtype(dtype).itemsize)
    try:
        if type_name == "DT_HALF":
            array = np.fromiter(values, np.uint16, received).view(np.float16)
        elif type_name == "DT_STRING":
            array = bytes_array(values)
        else:
            array = np.fromiter(values, dtype, received)
    except OverflowError as error:
        raise InvalidInputError(
            f"{name} has values outside the range of {type_name}: {error}"
        ) from error
    if received == count:
        return array.reshape(shape)
    if received == 0:
        array = np.zeros(1, dtype)
    if len(array) == 1:
        return np.broadcast_to(array[0], shape)
    repeated = np.full(count, array[-1], array.dtype)
    repeated[:received] = array
    return repeated.reshape(shape)
