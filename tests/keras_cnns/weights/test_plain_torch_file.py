"""torch's files are read without torch if they contain only tensors; nothing in them is run."""

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_weights import Array, random_tensor
from torch_writer import pickled_tuple, save_torch, state_dict_pickle

from keras_cnns.weights import WeightsError, read
from keras_cnns.weights.readers.plain_torch_file import NotPlainError, read_plain

FORMATS = pytest.mark.parametrize("legacy", [False, True])


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def tensors() -> dict[str, Array]:
    shapes = {"conv1.weight": (4, 3, 7, 7), "bn1.running_var": (4,), "bn1.num_batches_tracked": ()}
    found = {name: random_tensor(name, shape) for name, shape in shapes.items()}
    return found | {"half": np.arange(6, dtype="float16").reshape(2, 3)}


@FORMATS
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".bin"])
def test_a_state_dict_is_read(
    suffix: str, legacy: bool, tensors: dict[str, Array], tmp_path: Path
) -> None:
    save_torch(tensors, tmp_path / f"net{suffix}", legacy=legacy)
    found = read(tmp_path / f"net{suffix}")
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].shape == tensor.shape


@FORMATS
def test_a_truncated_file_is_called_truncated(
    legacy: bool, tensors: dict[str, Array], tmp_path: Path
) -> None:
    file = tmp_path / "net.pth"
    save_torch(tensors, file, legacy=legacy)
    content = file.read_bytes()
    for length in (100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"net\.pth is truncated"):
            read(file)


def archive(path: Path, content: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", content)
        for name, record in records.items():
            file.writestr(f"net/data/{name.lstrip('_')}", record)
    return path


class Call:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


# The reference to the storage "0" of four numbers.
TYPE = b"ctorch\nFloatStorage\n"
PID = b"(X\x07\0\0\0storage" + TYPE + b"X\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x04tQ"
# A list of lists of ... lists: its text has 2^40 characters.
NESTED = b"]q\x010" + b"".join(b"](h%ch%ceq%c0" % (n, n, n + 1) for n in range(1, 41)) + b"h)"


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": Call(print, ("run",))}, protocol=2),
        pickle.dumps({"a": Call(eval, ("1 + 1",))}, protocol=2),
        pickle.dumps({"a": np.ones(3)}, protocol=2),
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00exit\x85R.",
        # A state that is set on a storage, a type or the function that rebuilds tensors.
        b"\x80\x02" + PID + b"}X\x04\x00\x00\x00sizeJ\xff\xff\xff\x7fsb.",
        b"\x80\x02" + PID + b"N}X\x04\x00\x00\x00sizeJ\xff\xff\xff\x7fs\x86b.",
        b"\x80\x02ctorch\nFloatStorage\n}X\x01\x00\x00\x00aK\x01sb.",
        # Types that are given as text, and another kind of persistent object.
        b"\x80\x02" + PID.replace(TYPE, b"X\x01\x00\x00\x00O") + b".",
        b"\x80\x02" + PID.replace(b"storage", b"module_") + b".",
        b"\x80\x02" + PID.replace(b"K\x04", b"K\x05") + b".",  # five numbers of four
        b"not a pickle",
        # An index of the memo that would take gigabytes, and a key whose text would.
        b"\x80\x02}r\xff\xff\xff\x1f.",
        b"\x80\x02" + PID.replace(b"X\x01\0\0\0" + b"0", NESTED) + b".",
        # A state for the function that rebuilds tensors.
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__)s\x86b.",
        b"\x80\x02}q\0X\x05\0\0\0modelh\0s.",  # a dict in itself
    ],
)
def test_anything_but_tensors_is_left_to_torch(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = archive(tmp_path / "net.pth", content, _0=bytes(16))
    if not content.startswith(b"\x80\x02}"):  # those are plain, but without a state dict
        with pytest.raises(NotPlainError):
            read_plain(file)
    with pytest.raises(WeightsError, match="install torch"):
        read(file)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((1000, 1000), (0, 0), 0), ((2, 2), (1, 2), 0), ((4,), (1,), 1), ((2**31 - 1,), (1,), 0)],
)
def test_a_tensor_is_a_contiguous_part_of_its_storage(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, tmp_path: Path
) -> None:
    content = state_dict_pickle({"w": np.ones(4, "float32")})
    old = pickled_tuple((4,)) + pickled_tuple((1,))
    new = pickled_tuple(shape) + pickled_tuple(strides)
    assert content.count(old) == 1
    content = content.replace(old, new).replace(b"tQJ\0", b"tQJ" + bytes([offset]))
    with pytest.raises(WeightsError, match="install torch"):
        read(archive(tmp_path / "net.pth", content, _0=np.ones(4, "float32").tobytes()))
