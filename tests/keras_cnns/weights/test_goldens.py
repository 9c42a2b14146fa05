"""Our models give the logits of the original networks; `originals.py` wrote the files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from random_weights import Array, assert_agree, random_images, random_tensor

from keras_cnns.models import build

GOLDENS = Path(__file__).with_name("goldens")
TOLERANCE = 1e-4  # of the logits' range
# The golden file, our model, and whether it has auxiliary heads.
CASES = [
    ("torchvision_resnet18", "resnet18", False),
    ("torchvision_resnet50", "resnet50", False),
    ("torchvision_resnext50_32x4d", "resnext50_32x4d", False),
    ("torchvision_googlenet", "googlenet_tv", True),
    ("timm_resnet50", "resnet50", False),
    ("timm_resnetv2_18", "resnet18_v2", False),
    ("timm_resnetv2_50", "resnet50_v2", False),
]


def read_golden(golden: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the golden, and the checkpoint that its seed determines."""
    content = json.loads((GOLDENS / f"{golden}.json").read_text())
    return content, {
        name: random_tensor(name, tuple(shape), content["seed"])
        for name, shape in content["tensors"].items()
    }


def test_every_golden_is_compared() -> None:
    assert {path.stem for path in GOLDENS.iterdir()} == {golden for golden, *_ in CASES}


@pytest.mark.parametrize(("golden", "name", "aux_heads"), CASES)
def test_the_original_gave_these_logits(
    golden: str, name: str, aux_heads: bool, tmp_path: Path
) -> None:
    content, tensors = read_golden(golden)
    file = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(tensors, file)
    model = build(
        name,
        input_shape=content["images"][1:],
        classes=10,
        aux_heads=aux_heads,
        classifier_activation=None,
        weights=file,
    )
    answer = model(random_images(content["images"], content["seed"]))
    heads = answer if aux_heads else {"main": answer}
    assert heads.keys() <= content["logits"].keys()
    for head, logits in heads.items():
        assert_agree(np.asarray(logits), content["logits"][head], TOLERANCE)
