"""Weights of the original networks: made here, saved as they are published, loaded by ours.

Keras runs on torch here, so that both networks are in one process.
"""

import argparse
import io
import os
import pickle
import subprocess
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath
from typing import Any

import backend_answers
import keras
import numpy as np
import pytest
import safetensors.torch
import torch
from originals import CLASSES, answers, original, shapes_in_timm
from random_weights import Array, assert_agree, random_images, random_tensor

from keras_cnns.models import build
from keras_cnns.weights import WeightsError, read
from keras_cnns.weights.assignment import find_origin
from keras_cnns.weights.checkpoint import Architecture
from keras_cnns.weights.matching import models_that_fit
from keras_cnns.weights.readers import torch_file

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4  # of the logits' range
SEED = 1  # not the goldens'
# Whose network, its name there, its name here, and the images' height and width.
CASES = [
    ("torchvision", "resnet18", "resnet18", (64, 64)),
    ("torchvision", "resnet34", "resnet34", (64, 64)),
    ("torchvision", "resnet50", "resnet50", (75, 64)),
    ("torchvision", "resnet101", "resnet101", (64, 64)),
    ("torchvision", "resnet152", "resnet152", (64, 64)),
    ("torchvision", "resnext50_32x4d", "resnext50_32x4d", (64, 64)),
    # The auxiliary heads read maps of 12, 14, 14 and 16 positions per side, and of 14 x 7.
    ("torchvision", "googlenet", "googlenet_tv", (201, 201)),
    ("torchvision", "googlenet", "googlenet_tv", (224, 224)),
    ("torchvision", "googlenet", "googlenet_tv", (225, 225)),
    ("torchvision", "googlenet", "googlenet_tv", (256, 256)),
    ("torchvision", "googlenet", "googlenet_tv", (224, 107)),
    ("timm", "resnet50", "resnet50", (64, 64)),
    ("timm", "resnext50_32x4d", "resnext50_32x4d", (64, 64)),
    ("timm", "resnetv2_18", "resnet18_v2", (64, 64)),
    ("timm", "resnetv2_34", "resnet34_v2", (64, 64)),
    ("timm", "resnetv2_50", "resnet50_v2", (75, 64)),
    ("timm", "resnetv2_101", "resnet101_v2", (64, 64)),
]
OF_KERAS = [
    (f"ResNet{depth}{version}", f"resnet{depth}_{layout}")
    for depth in (101, 152)
    for version, layout in (("", "v1"), ("V2", "v2_keras"))
]


def logits_of(model: Any, images: Array) -> dict[str, Array]:
    answer = model.predict(images, verbose=0)
    return answer if isinstance(answer, dict) else {"main": answer}


@pytest.mark.parametrize(("origin", "theirs", "ours", "size"), CASES)
def test_torch_gives_the_same_logits(
    origin: str, theirs: str, ours: str, size: tuple[int, int], tmp_path: Path
) -> None:
    net = original(origin, theirs, SEED)
    images = random_images((2, *size, 3), SEED)
    expected = answers(net, images)
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_file(net.state_dict(), file)
    options: dict[str, Any] = {
        "input_shape": (*size, 3),
        "classes": CLASSES,
        "classifier_activation": None,
    }
    model = build(ours, **options, aux_heads=len(expected) > 1, weights=file)
    found = logits_of(model, images)
    assert found.keys() == expected.keys()
    for head in expected:
        assert_agree(found[head], expected[head], TOLERANCE)


@pytest.fixture(scope="module")
def resnet18() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = original("torchvision", "resnet18", SEED).state_dict()
    return state


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: each for name, each in state.items()}


State = dict[str, torch.Tensor]
ARGS = argparse.Namespace(lr=0.1, model="resnet18", data_path="/data")
WRAPPERS: dict[str, Callable[[State], Any]] = {
    "state dict": lambda state: state,
    "OrderedDict": OrderedDict,
    "nn.Parameter": lambda state: {
        name: torch.nn.Parameter(each) if each.is_floating_point() else each
        for name, each in state.items()
    },
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "arch": "resnet18"},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "model, args": lambda state: {"model": prefixed("module.", state), "args": ARGS, "epoch": 3},
    "net": lambda state: {"net": state, "acc": 95.0},
    "nested": lambda state: {"model": {"state_dict": state}},
    "Lightning": lambda state: {"state_dict": prefixed("model.net.", state), "global_step": 1},
    "AveragedModel": lambda state: {**prefixed("module.", state), "n_averaged": torch.tensor(3)},
    "numbers of NumPy": lambda state: {
        "state_dict": state,
        "best_acc1": np.float64(76.1),
        "epoch": np.int64(3),
        "done": np.bool_(True),
        "dtype": np.dtype("float32"),
    },
    "paths": lambda state: {
        "state_dict": state,
        "args": argparse.Namespace(data=Path("/data"), windows=PureWindowsPath("C:/data")),
        "output": PurePosixPath("runs/1"),
    },
    "tied": lambda state: {
        "state_dict": state,
        "optimizer": {"fc.weight": state["fc.weight"]},
    },
    "no EMA yet": lambda state: {"state_dict": state, "state_dict_ema": {}},
}


def build_resnet18(file: Path) -> keras.Model:
    return build("resnet18", input_shape=(32, 32, 3), classes=CLASSES, weights=file)


@pytest.fixture(scope="module")
def expected(resnet18: State, tmp_path_factory: pytest.TempPathFactory) -> list[Array]:
    file = tmp_path_factory.mktemp("files") / "net.safetensors"
    safetensors.torch.save_file(resnet18, file)
    return list(build_resnet18(file).get_weights())


def assert_equal(model: keras.Model, expected: list[Array]) -> None:
    for found, each in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, each)


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_checkpoints_of_training_are_read(
    wrap: str, resnet18: State, expected: list[Array], tmp_path: Path
) -> None:
    torch.save(WRAPPERS[wrap](resnet18), tmp_path / "net.pth")
    assert_equal(build_resnet18(tmp_path / "net.pth"), expected)


@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ".bin", ".ckpt"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_torchs_own_files_are_read(
    suffix: str, as_zip: bool, resnet18: State, expected: list[Array], tmp_path: Path
) -> None:
    file = tmp_path / f"net{suffix}"
    torch.save({"state_dict": resnet18}, file, _use_new_zipfile_serialization=as_zip)
    assert_equal(build_resnet18(file), expected)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_averaged_weights_are_preferred(
    key: str,
    resnet18: State,
    expected: list[Array],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    latest = {name: torch.zeros_like(each) for name, each in resnet18.items()}
    file = tmp_path / "net.pth.tar"
    torch.save({"model": latest, "state_dict": latest, key: resnet18}, file)
    assert_equal(build_resnet18(file), expected)
    messages = [each.getMessage() for each in caplog.records]
    assert messages == [f"{file}: the averaged weights (EMA) in {key} are used"]


@pytest.mark.parametrize(
    "content",
    [
        {"arch": "resnetblur18"},
        {"args": argparse.Namespace(model="resnetblur18")},
        {"args": {"arch": "resnetblur18"}},
    ],
)
def test_the_architecture_of_a_checkpoint_is_compared(
    content: dict[str, Any], resnet18: State, tmp_path: Path
) -> None:
    torch.save({**content, "state_dict": resnet18}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="blur pooling before its strides"):
        build_resnet18(tmp_path / "net.pth")


def test_of_timms_variants_only_pooling_without_weights_needs_metadata() -> None:
    """Which of timm's networks our models would load, by the names and shapes of a state dict."""
    loaded = {}
    for name, shapes in shapes_in_timm("resnet", "resnetv2", "resnest", "sknet"):
        tensors = {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}
        origin = find_origin(tensors, name)
        if not origin.differences(tensors, None) and models_that_fit(origin, tensors):
            loaded[name] = not origin.differences(tensors, Architecture(name, "metadata"))
    depths = (18, 34, 50, 101, 152)
    same = {*(f"resnet{n}" for n in depths), *(f"resnetv2_{n}" for n in depths), "resnext50_32x4d"}
    assert {name for name, is_same in loaded.items() if is_same} == same
    assert loaded.keys() - same == {"resnetaa50", "resnetblur18", "resnetblur50"}


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 1",)


ONES = torch.ones(3, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: {"a": Harmful()},
            "contains more than tensors: posix.system is not loaded, because",
        ),
        (
            lambda: {"a": ONES, "args": argparse.Namespace(a=Harmful())},
            "contains more than tensors: posix.system",
        ),
        (
            lambda: torch.nn.Linear(1, 1),
            "contains more than tensors: torch.nn.modules.linear.Linear",
        ),
        (lambda: [1, 2], "is not a dict of tensors by name"),
        (lambda: {"epoch": 3}, "is not a dict of tensors by name.*; its entry 'epoch' is int"),
        (lambda: {"w": ONES.to_sparse()}, "w is a sparse tensor .torch.sparse_coo.; convert it"),
        (lambda: {"w": ONES.to_sparse_csr()}, "w is a sparse tensor .torch.sparse_csr."),
        (lambda: {"w": ONES.to("meta")}, "w is a meta tensor: it has a shape and no values"),
        (
            lambda: {"w": torch.quantize_per_tensor(ONES, 0.1, 0, torch.qint8)},
            "w is a quantized tensor .torch.qint8.; save the model before its quantization",
        ),
        (lambda: {"w": torch.nested.nested_tensor([ONES, ONES])}, "w is a nested tensor"),
        (lambda: {"w": ONES[:1, :1].expand(1000, 1000)}, "w of .1000, 1000. is larger than the"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's deprecations, when such files are written
def test_what_is_no_dense_tensor_is_refused_by_name(
    content: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    torch.save(content(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=message) as error:
        read(tmp_path / "net.pth")
    assert_gives_no_advice(error.value)


SCALAR = np.float64(0).__reduce__()[0]  # the function as whose call a NumPy number is pickled


class Call:
    """Is pickled as a call of a function; a state, if given, is set on the call's result."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "hostile",
    [
        Call(np.dtype, ("V1000000000",)),
        Call(np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 63)),
        Call(SCALAR, (Call(np.dtype, ("V1000000000",)),)),
        Call(SCALAR, (Call(np.dtype, ("O",)), b"\0" * 8)),
        Call(PosixPath, (3,), (None, {"_str": "/etc/passwd", "__class__": 3})),
    ],
)
def test_plain_data_is_replaced_by_placeholders_without_a_call(
    hostile: Call, tmp_path: Path
) -> None:
    """Names of NumPy and pathlib are allowed, and whatever the file passes to them is dropped."""
    torch.save({"hostile": hostile, "state_dict": {"w": ONES}}, tmp_path / "net.pth")
    found = torch_file.load(tmp_path / "net.pth")["hostile"]
    assert isinstance(found, torch_file.PlainData)
    assert not vars(found)
    assert read(tmp_path / "net.pth").keys() == {"w"}


def rewritten(path: Path, change: Callable[[bytes], bytes], compression: int) -> None:
    """Write torch's archive anew, with changed records."""
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_either_version_of_numpy_are_read(module: bytes, tmp_path: Path) -> None:
    file, ours = tmp_path / "net.pth", SCALAR.__module__.encode()
    torch.save({"best_acc1": np.float64(76.1), "state_dict": {"w": ONES}}, file)
    assert ours in file.read_bytes()
    rewritten(file, lambda record: record.replace(ours, module), zipfile.ZIP_STORED)
    assert read(file).keys() == {"w"}


def test_what_is_plain_data_can_still_hold_no_code(tmp_path: Path) -> None:
    torch.save({"path": Call(PosixPath, (Harmful(),)), "w": ONES}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"contains more than tensors: posix\.system"):
        read(tmp_path / "net.pth")


def test_tensors_that_share_a_storage_are_counted_once(tmp_path: Path) -> None:
    """Tied weights; 1,000 names of one tensor cost no more memory than one."""
    tied = torch.ones(1000, dtype=torch.float16)
    names = [f"w{number}" for number in range(1000)]
    torch.save(dict.fromkeys(names, tied), tmp_path / "net.pth")
    found = read(tmp_path / "net.pth")
    assert list(found) == names
    assert len({each.ctypes.data for each in found.values()}) == 1
    halves = {"a": tied[:500], "b": tied[500:] * 2}
    fused = torch.cat([*halves.values()])
    torch.save({"a": fused[:500], "b": fused[500:]}, tmp_path / "fused.pth")
    assert [each[0] for each in read(tmp_path / "fused.pth").values()] == [1, 2]


def test_a_compressed_archive_is_refused_before_torch_decompresses_it(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(1 << 20)}, bomb)
    rewritten(bomb, lambda record: record, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="its records claim more bytes than the file has"):
        read(bomb)


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_newer_pickle_protocol_is_named(protocol: int, as_zip: bool, tmp_path: Path) -> None:
    """Tensors and plain data are read; of the rest, torch's reader supports protocol 3 at most."""
    file = tmp_path / "net.pth"
    options: Any = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": as_zip}
    torch.save({"w": ONES}, file, **options)
    assert read(file).keys() == {"w"}
    torch.save({"state_dict": {"w": ONES}, "args": argparse.Namespace(arch="x")}, file, **options)
    if protocol == 3:
        assert read(file).keys() == {"w"}
        return
    with pytest.raises(WeightsError) as error:
        read(file)
    assert str(error.value) == (
        f"{file} uses a pickle protocol above 2, which torch's safe reader does not support; "
        "save it with torch.save's default"
    )


def broken_directory() -> bytes:
    """Return an archive whose list of records is damaged, while its last bytes are right."""
    content = written_by_torch(True)
    return content.replace(b"PK\1\2", b"PK\1\3")


def assert_gives_no_advice(error: WeightsError) -> None:
    """torch advises to load a file that it refuses with weights_only=False."""
    (line,) = str(error).splitlines()
    for advice in ("weights_only", "trust", "safe_globals", "PyTorch 2.6"):
        assert advice not in line


def written_by_torch(as_zip: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.ones(10_000)}, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


def torchscript() -> bytes:
    with warnings.catch_warnings(action="ignore"):
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 3), ONES), file)
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


DAMAGED = [
    *(
        (written_by_torch(as_zip)[: -(-40_000 * part // 10) or 20], "is truncated")
        for as_zip in (True, False)
        for part in (0, 1, 5, 9)
    ),
    *((written_by_torch(False)[:length], "is truncated") for length in (9, 40, 150, 300)),
    (torchscript(), "is a TorchScript program: save its state_dict"),
    (broken_directory(), "is damaged, or is not a checkpoint that torch.save has written"),
    (tar(), "is damaged, or is not a checkpoint that torch.save has written"),
    (b"\x80\x02garbage" * 9, "is damaged, or is not a checkpoint that torch.save has written"),
    (pickle.dumps({"w": np.ones(3)}, protocol=2), "contains more than tensors: numpy"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED)
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar"])
def test_damaged_files_are_called_what_they_are(
    content: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"net{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read(file)
    assert str(error.value).startswith(f"{file} {message}")
    assert_gives_no_advice(error.value)


def test_a_checkpoint_of_half_precision_is_read(tmp_path: Path) -> None:
    net = original("torchvision", "resnet18", SEED).bfloat16()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    options: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": CLASSES}
    one = build("resnet18", **options, weights=tmp_path / "net.safetensors")
    other = build("resnet18", **options, weights=tmp_path / "net.pth")
    for first, second in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("theirs", "ours"), OF_KERAS)
def test_the_deeper_nets_of_keras_applications_give_the_same_logits(
    theirs: str, ours: str, tmp_path: Path
) -> None:
    shape = (64, 64, 3)
    options: dict[str, Any] = {
        "input_shape": shape,
        "classes": CLASSES,
        "classifier_activation": None,
    }
    net = getattr(keras.applications, theirs)(weights=None, **options)
    for layer in net.layers:
        for variable in layer.weights:
            tensor = f"{layer.name}/{variable.name}"
            variable.assign(random_tensor(tensor, tuple(variable.shape), SEED))
    net.save_weights(tmp_path / "net.weights.h5")
    images = random_images((2, *shape), SEED)
    model = build(ours, **options, weights=tmp_path / "net.weights.h5")
    assert_agree(logits_of(model, images)["main"], net.predict(images, verbose=0), TOLERANCE)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_torch_answers_as_the_other_backends(backend: str, tmp_path: Path) -> None:
    """To 1e-5 of the largest logit; the other backends' process is that of `make setup`."""
    file = tmp_path / "answers.npz"
    subprocess.run(
        [ROOT / ".venv/bin/python", backend_answers.__file__, file],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    with np.load(file) as found:
        for name, answer in backend_answers.answer_all().items():
            expected = found[name]
            np.testing.assert_allclose(
                answer, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name
            )
