"""Read files of weights (safetensors, torch, HDF5, Keras archives) as name -> array.

A file may come from an untrusted source. Therefore, no code in a file is executed, a file cannot
make this process open another file, and the tensors of a file, before their conversion to float32,
cannot take more memory than its size on disk. The safest format is `.safetensors`, whose library
was written for hostile files. A damaged `.h5` or `.keras` file can make HDF5 loop forever.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from keras_cnns.weights.checkpoint import Architecture, Checkpoint, Tensors, as_float32
from keras_cnns.weights.errors import WeightsError
from keras_cnns.weights.readers.keras_file import read_hdf5, read_keras
from keras_cnns.weights.readers.safetensors_file import read_safetensors
from keras_cnns.weights.readers.torch_file import read_torch

_READERS: dict[str, Callable[[Path], Checkpoint]] = {
    ".safetensors": read_safetensors,
    ".pth": read_torch,
    ".pt": read_torch,
    ".pth.tar": read_torch,
    ".bin": read_torch,
    ".ckpt": read_torch,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".keras": read_keras,
}
_START_BYTES = 512
# Maximum size of config.json; a longer file is not Hugging Face's, and is ignored.
_CONFIG_BYTES = 1 << 16
# Patterns and descriptions of the texts that are often saved by mistake instead of a checkpoint.
_TEXTS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (rb"<(!--|!doctype|html|head|body)", "a web page (HTML): download the file itself"),
    (rb"<\?xml|<error", "an XML document, probably a server's error message: download it again"),
    (rb'\{\s*"', "a JSON document, probably a server's error message: download it again"),
)


def read(file: Path | str) -> Tensors:
    """Read the tensors of a file; floating-point numbers are converted to float32.

    The tensors keep the names that they have in the file. In files of all versions of Keras, a name
    has the form `layer/variable`.

    Args:
        file: a file with the suffix `.safetensors`, `.h5` or `.keras`; or with the suffix `.pth`,
            `.pt`, `.pth.tar`, `.bin` or `.ckpt`, for which torch must be installed unless the file
            contains only tensors and plain data.

    Raises:
        WeightsError: the file does not exist, has an unknown suffix, or cannot be read.
    """
    return read_checkpoint(file).tensors


def read_checkpoint(file: Path | str) -> Checkpoint:
    """Read the tensors as `read` does, and the name of the architecture.

    The architecture's name is read from the file's metadata, or else from the `config.json` beside
    the file, or else from the file's name.
    """
    path = Path(file)
    suffix = next((suffix for suffix in _READERS if path.name.endswith(suffix)), None)
    if suffix is None:
        raise WeightsError(f"{path}: files of weights end in {', '.join(_READERS)}")
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    _check_start(path)
    tensors, architecture = _READERS[suffix](path)
    if not tensors:
        raise WeightsError(f"{path} contains no tensors")
    architecture = architecture or _configured_architecture(path.with_name("config.json"))
    return Checkpoint(
        {name: as_float32(each) for name, each in tensors.items()},
        architecture or Architecture(path.name, "file name"),
    )


def _configured_architecture(path: Path) -> Architecture | None:
    """Return the architecture in Hugging Face's `config.json`; None if it cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _CONFIG_BYTES:
            return None
        name = json.loads(path.read_bytes())["architecture"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return Architecture(name, path.name) if isinstance(name, str) else None


def _check_start(path: Path) -> None:
    """Check that a file is not empty and not a text.

    Raises:
        WeightsError: the file is empty or a text; the message describes it.
    """
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if not start:
        raise WeightsError(f"{path} is empty (0 bytes)")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, description in _TEXTS:
        if b"\0" not in text and re.match(pattern, text, re.IGNORECASE):
            raise WeightsError(f"{path} is {description}")
