"""Write and read checkpoints: files that contain the state of a training, and a checksum.

```
keras-cnns checkpoint 1\\n          the format
SHA-256 of the rest, in hexadecimal\\n
safetensors                        arrays by name, and the rest of the state as JSON in `state`
```
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from keras_cnns.files import replacing

_FORMAT = b"keras-cnns checkpoint 1\n"
_DIGEST = 64  # number of characters of the checksum
_STATE = "state"  # the name of the array that holds the JSON
SUFFIX = ".checkpoint"
_NAME = re.compile(rf"step-(\d+){re.escape(SUFFIX)}")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names the file and the reason."""


def write_checkpoint(path: Path, state: Any) -> None:
    """Write a state atomically.

    Args:
        path: the path of the file.
        state: numbers, text, None, arrays, and lists, tuples and dicts of these.
    """
    arrays: list[np.ndarray[Any, Any]] = []
    text = json.dumps(_encode(state, arrays)).encode()
    named = {str(number): _storable(array) for number, array in enumerate(arrays)}
    payload = save({_STATE: np.frombuffer(text, np.uint8), **named})
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(_FORMAT + hashlib.sha256(payload).hexdigest().encode() + b"\n")
        file.write(payload)


def read_checkpoint(path: Path) -> Any:
    """Return the state that `write_checkpoint` wrote.

    Raises:
        CheckpointError: the file cannot be read, is no checkpoint, or is damaged.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    start = len(_FORMAT) + _DIGEST + 1
    if content[: len(_FORMAT)] != _FORMAT:
        raise CheckpointError(f"{path} does not begin with {_FORMAT.decode().strip()!r}")
    line, payload = bytes(content[len(_FORMAT) : start]), content[start:]
    if hashlib.sha256(payload).hexdigest().encode() + b"\n" != line:
        raise CheckpointError(f"{path} is damaged: its checksum does not match its content")
    try:
        arrays = load(bytes(payload))
        return _decode(json.loads(arrays.pop(_STATE).tobytes()), arrays)
    except Exception as error:  # not a damaged file, since its checksum is right
        raise CheckpointError(
            f"{path} does not contain the state of a training: {error}"
        ) from error


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in a directory, the latest step first."""
    numbered = {path: _NAME.fullmatch(path.name) for path in directory.glob(f"*{SUFFIX}")}
    steps = {path: int(match[1]) for path, match in numbered.items() if match}
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def checkpoint_path(directory: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return directory / f"step-{step:08d}{SUFFIX}"


def is_plain(value: Any) -> bool:
    """Return whether `write_checkpoint` can write a value."""
    if isinstance(value, dict):
        return all(is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return all(is_plain(each) for each in value)
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf" or value.dtype.name == "bfloat16"
    return value is None or isinstance(value, bool | int | float | str)


def _encode(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """Return a value in JSON's types; dicts, tuples and arrays become objects with a type key."""
    match value:
        case dict():
            pairs = [[_encode(k, arrays), _encode(v, arrays)] for k, v in value.items()]
            return {"dict": pairs}
        case tuple():
            return {"tuple": [_encode(each, arrays) for each in value]}
        case list():
            return [_encode(each, arrays) for each in value]
        case np.ndarray() | np.generic():
            arrays.append(np.asarray(value))
            return {"array": len(arrays) - 1, "dtype": value.dtype.name}
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: {value!r}")


def _decode(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    match value:
        case {"dict": pairs}:
            return {_decode(k, arrays): _decode(v, arrays) for k, v in pairs}
        case {"tuple": values}:
            return tuple(_decode(each, arrays) for each in values)
        case {"array": number, "dtype": dtype}:
            array = arrays[str(number)]
            return array.view(_bfloat16()) if dtype == "bfloat16" else array
        case list():
            return [_decode(each, arrays) for each in value]
    return value


def _storable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array that safetensors accepts: contiguous, and with bfloat16 viewed as uint16."""
    # Reshape, since ascontiguousarray converts scalars to vectors.
    array = np.ascontiguousarray(array).reshape(array.shape)
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _bfloat16() -> np.dtype[Any]:
    import ml_dtypes  # a requirement of Keras

    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16
