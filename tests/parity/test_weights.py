"""Weights of the original nets, live: made here, saved as they are published, read by ours.

Keras runs on torch here, so that both nets are in one process.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import backend_answers
import keras
import numpy as np
import pytest
import safetensors.torch
import torch
from originals import CLASSES, answers, original
from random_weights import Array, assert_agree, random_images, random_tensor

from keras_cnns.models import build

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-4  # of the logits' range
SEED = 1  # not the goldens'
# Whose net, its name there, its name here, and the images' height and width.
CASES = [
    ("torchvision", "resnet18", "resnet18", (64, 64)),
    ("torchvision", "resnet34", "resnet34", (64, 64)),
    ("torchvision", "resnet50", "resnet50", (75, 64)),
    ("torchvision", "resnet101", "resnet101", (64, 64)),
    ("torchvision", "resnet152", "resnet152", (64, 64)),
    ("torchvision", "resnext50_32x4d", "resnext50_32x4d", (64, 64)),
    ("torchvision", "googlenet", "googlenet_tv", (128, 128)),
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
    options = {"input_shape": (*size, 3), "classes": CLASSES, "classifier_activation": None}
    model = build(ours, **options, aux_heads=len(expected) > 1, weights=file)
    found = logits_of(model, images)
    assert found.keys() == expected.keys()
    for head in expected:
        assert_agree(found[head], expected[head], TOLERANCE)


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": state, "epoch": 3}])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_torchs_own_files_are_read(wrap: Any, suffix: str, tmp_path: Path) -> None:
    net = original("torchvision", "resnet18", SEED)
    torch.save(wrap(net.state_dict()), tmp_path / f"net{suffix}")
    images = random_images((2, 64, 64, 3), SEED)
    model = build(
        "resnet18",
        input_shape=(64, 64, 3),
        classes=CLASSES,
        classifier_activation=None,
        weights=tmp_path / f"net{suffix}",
    )
    assert_agree(logits_of(model, images)["main"], answers(net, images)["main"], TOLERANCE)


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Harmful()}, "torch finds more in it than tensors"),
        (torch.nn.Linear(1, 1), "torch finds more in it than tensors"),
        ([1, 2], "not a dict of tensors by name"),
        ({"epoch": 3}, "not a dict of tensors by name"),
    ],
)
def test_a_file_of_more_than_tensors_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        build("resnet18", weights=tmp_path / "net.pth")


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
    options = {"input_shape": shape, "classes": CLASSES, "classifier_activation": None}
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
