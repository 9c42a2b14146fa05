"""Files that are broken or hostile say so; none costs more memory than its size."""

import importlib.util
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from keras_cnns.weights import WeightsError, read


def safetensors_header(path: Path, header: object, data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def claims_too_much(path: Path) -> None:
    safetensors_header(
        path, {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    )


def endless_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def overlapping(path: Path) -> None:
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    safetensors_header(path, {"a": tensor, "b": tensor}, b"\0" * 4)


def of_tiny_floats(path: Path) -> None:
    tensor = {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}
    safetensors_header(path, {"a": tensor}, b"\0")


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 9)


def empty(path: Path) -> None:
    safetensors_header(path, {})


def never_stored(path: Path) -> None:
    """A data set of a terabyte in a file of a few kilobytes: HDF5 stores what was written."""
    with h5py.File(path, "w") as file:
        file.create_dataset("conv1_conv/kernel", (1 << 38,), "float32", chunks=(1 << 20,))


def in_another_file(path: Path) -> None:
    other = path.with_name("other.bin")
    other.write_bytes(b"secret..")
    with h5py.File(path, "w") as file:
        file.create_dataset("a/kernel", (2,), "float32", external=[(str(other), 0, 8)])


def by_a_link(path: Path) -> None:
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["a/kernel"] = np.ones(2, "float32")
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink(str(path.with_name("other.h5")), "a")


def twice(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for group in ("layers/conv2d", "layers/conv2d_1"):
            file[f"{group}/vars/0"] = np.ones(2, "float32")
            file[f"{group}/vars"].attrs["name"] = "stem_conv"


def nameless(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.ones(2, "float32")


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 22))


def without_weights(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


@pytest.mark.parametrize(
    ("suffix", "write", "message"),
    [
        (".safetensors", claims_too_much, "not a safetensors file that can be read"),
        (".safetensors", endless_header, "not a safetensors file that can be read"),
        (".safetensors", overlapping, "not a safetensors file that can be read"),
        (".safetensors", of_tiny_floats, "a is of F8_E4M3, no number of a net's"),
        (".safetensors", garbage, "not a safetensors file that can be read"),
        (".safetensors", empty, "there are no tensors in it"),
        (".h5", garbage, "not an HDF5 file that can be read"),
        (".h5", never_stored, "is larger than the file"),
        (".h5", in_another_file, "lies in another file"),
        (".h5", by_a_link, "there are no tensors in it"),
        (".weights.h5", twice, "stem_conv/kernel is in it twice"),
        (".weights.h5", nameless, "lacks its layers' names"),
        (".keras", garbage, "not an archive of Keras'"),
        (".keras", bomb, "claims more bytes than it has"),
        (".keras", without_weights, "not an archive of Keras'"),
        (".npz", garbage, "there are .safetensors, .pth, .pt, .h5, .hdf5, .keras"),
        (".safetensors", lambda path: None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(
    suffix: str, write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    file = tmp_path / f"net{suffix}"
    write(file)
    with pytest.raises(WeightsError) as error:
        read(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_floating_numbers_become_float32_and_others_stay(tmp_path: Path) -> None:
    tensors = {
        "half": np.ones(2, "float16"),
        "brain": np.ones(2, ml_dtypes.bfloat16),
        "double": np.ones(2, "float64"),
        "count": np.asarray(3, "int64"),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "net.safetensors")
    found = read(tmp_path / "net.safetensors")
    assert {name: each.dtype.name for name, each in found.items()} == {
        "half": "float32",
        "brain": "float32",
        "double": "float32",
        "count": "int64",
    }


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_its_files_name_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "resnet50.pth"
    file.write_bytes(b"whatever")
    with pytest.raises(WeightsError, match=r"install torch .* or write it as \.safetensors"):
        read(file)
