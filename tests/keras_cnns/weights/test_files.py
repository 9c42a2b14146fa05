"""The errors name what is wrong with hostile files; none costs more memory than its size."""

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


def with_extra_bytes(path: Path) -> None:
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    safetensors_header(path, {"a": tensor, "__metadata__": {"by": "me"}}, bytes(7))


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


def by_a_link_of_the_group(path: Path) -> None:
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["secret/a/kernel"] = np.ones(2, "float32")
    with h5py.File(path, "w") as file:
        file["model_weights"] = h5py.ExternalLink(str(path.with_name("other.h5")), "secret")


def in_a_large_chunk(path: Path) -> None:
    """HDF5 decompresses 16 MB to read one number."""
    with h5py.File(path, "w") as file:
        options = {"chunks": (1 << 22,), "maxshape": (None,), "compression": "gzip"}
        file.create_dataset("a/kernel", (1,), "float32", **options)[0] = 1


def of_texts(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a/kernel"] = ["x" * 100]


def of_a_damaged_stream(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", np.random.default_rng(0).bytes(4000))
    content = bytearray(path.read_bytes())
    start = content.index(b"model.weights.h5") + len("model.weights.h5")
    content[start : start + 100] = b"\xff" * 100
    path.write_bytes(content)


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
        (".safetensors", claims_too_much, "is truncated"),
        (".safetensors", endless_header, "is truncated"),
        (".safetensors", overlapping, "is not a readable safetensors file"),
        (".safetensors", of_tiny_floats, "a has the type F8_E4M3; the supported types are F64"),
        (".safetensors", with_extra_bytes, "has 3 extra bytes after its last tensor"),
        (".safetensors", garbage, "is not a readable safetensors file"),
        (".safetensors", empty, "contains no tensors"),
        (".h5", garbage, "is not a readable HDF5 file"),
        (".h5", never_stored, "is larger than the file"),
        (".h5", in_another_file, "lies in another file"),
        (".h5", by_a_link, "contains no tensors"),
        (".h5", by_a_link_of_the_group, "contains no tensors"),
        (".h5", in_a_large_chunk, "a/kernel of [1] is larger than the file"),
        (".h5", of_texts, "a/kernel has the type object; weights are numbers"),
        (".keras", of_a_damaged_stream, "is not a readable Keras archive"),
        (".weights.h5", twice, "stem_conv/kernel is in it twice"),
        (".weights.h5", nameless, "lacks the names of its layers"),
        (".keras", garbage, "is not a readable Keras archive"),
        (".keras", bomb, "claims more bytes than the file has"),
        (".keras", without_weights, "is not a readable Keras archive"),
        (
            ".npz",
            garbage,
            "end in .safetensors, .pth, .pt, .pth.tar, .bin, .ckpt, .h5, .hdf5, .keras",
        ),
        (".tar", garbage, "files of weights end in"),
        (".safetensors", lambda path: None, "there is no such file"),
    ],
)
def test_the_error_for_an_unreadable_file_gives_the_reason(
    suffix: str, write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    file = tmp_path / f"net{suffix}"
    write(file)
    with pytest.raises(WeightsError) as error:
        read(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)


SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".bin", ".ckpt", ".h5", ".hdf5", ".keras")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>Sign in</html>", "is a web page (HTML)"),
        (b"<HTML><body>404</body></HTML>", "is a web page (HTML)"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML document"),
        (b'{"error": "Repository not found"}', "is a JSON document"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 102502400\n",
            "is a Git LFS pointer, not the file itself: run `git lfs pull`",
        ),
    ],
)
def test_what_is_saved_in_place_of_a_checkpoint_is_recognized(
    suffix: str, content: bytes, message: str, tmp_path: Path
) -> None:
    """These need no torch."""
    file = tmp_path / f"net{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read(file)
    assert f"{file} {message}" in str(error.value).splitlines()[0]


def whole_file(path: Path) -> None:
    """Write a file of the suffix's format; torch's zip archive is one with any member."""
    tensors = {"a/kernel": np.ones(300, "float32")}
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["a/kernel"] = tensors["a/kernel"]
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.weights.h5", bytes(1000))


@pytest.mark.parametrize("suffix", [".safetensors", ".h5", ".keras", ".pth", ".pth.tar"])
def test_a_truncated_file_is_called_truncated(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"net{suffix}"
    whole_file(file)
    content = file.read_bytes()
    lengths = {1, 3, 8, 50, 100, 500, len(content) // 2, len(content) - 1}
    for length in sorted(lengths):
        file.write_bytes(content[:length])
        with pytest.raises(WeightsError) as error:
            read(file)
        assert f"{file} is truncated" in str(error.value).splitlines()[0], length


def test_numbers_beyond_float32_are_infinite(tmp_path: Path) -> None:
    """They are refused by name where they are assigned, and no warning is shown here."""
    safetensors.numpy.save_file({"a": np.full(2, 1e300)}, tmp_path / "net.safetensors")
    assert np.isinf(read(tmp_path / "net.safetensors")["a"]).all()


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
    with pytest.raises(WeightsError, match=r"install torch .* or convert it to \.safetensors"):
        read(file)
