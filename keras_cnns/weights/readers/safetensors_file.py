"""Read safetensors; the library checks every offset and shape before it uses them."""

import json
from pathlib import Path

import numpy as np

from keras_cnns.weights.checkpoint import Architecture, Checkpoint, Tensors
from keras_cnns.weights.errors import WeightsError

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "BOOL": "?",
}
_LENGTH_BYTES = 8  # the file starts with the length of its header


def read_safetensors(path: Path) -> Checkpoint:
    """Read a `.safetensors` file.

    Raises:
        WeightsError: the file is truncated or damaged, or has tensors of an unsupported type.
    """
    import safetensors

    # Reading from memory is safer than mapping the file: if a mapped file shrinks in the meantime,
    # the process crashes.
    content = path.read_bytes()
    header_length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    try:
        entries = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        header_end = _LENGTH_BYTES + header_length
        is_cut = len(content) < _LENGTH_BYTES or (
            content[_LENGTH_BYTES : _LENGTH_BYTES + 1] in (b"", b"{") and len(content) < header_end
        )
        if not is_cut and "not fully covered" in str(error):
            header = json.loads(content[_LENGTH_BYTES:header_end])
            header.pop("__metadata__", None)
            data_end = max((each["data_offsets"][1] for each in header.values()), default=0)
            surplus = len(content) - header_end - data_end
            if surplus > 0:
                raise WeightsError(
                    f"{path} has {surplus} extra bytes after its last tensor"
                ) from error
            is_cut = True
        if is_cut:
            raise WeightsError(
                f"{path} is truncated: it ends before its header or its last tensor does"
            ) from error
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    tensors: Tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(
                f"{path}: {name} has the type {entry['dtype']}; "
                f"the supported types are {', '.join(_DTYPES)}"
            )
        numbers = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":  # NumPy lacks bfloat16, which is the upper half of a float32
            numbers = (numbers.astype("<u4") << 16).view("<f4")
        tensors[name] = numbers.reshape(entry["shape"])
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + header_length])
    metadata = header.get("__metadata__", {})
    name = metadata.get("architecture") or metadata.get("arch")
    return Checkpoint(tensors, Architecture(name, "metadata") if name else None)
