"""The networks of torchvision and timm with random weights, which ours are compared with.

Run by the Python of `make test-parity`, it writes the files in `goldens`:
`.venv-parity/bin/python tests/keras_cnns/weights/originals.py`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from random_weights import Array, random_images, random_tensor

try:
    import torchvision
except RuntimeError:
    # A build for another torch lacks two operators, which these networks do not call.
    DECLARED = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        DECLARED.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
import timm  # it imports torchvision

GOLDENS = Path(__file__).with_name("goldens")
CLASSES = 10
SEED = 0
BUILDERS: dict[str, Callable[..., Any]] = {
    "timm": lambda name: timm.create_model(name, num_classes=CLASSES),
    "torchvision": lambda name: torchvision.models.get_model(
        name,
        num_classes=CLASSES,
        **({"aux_logits": True, "init_weights": False} if name == "googlenet" else {}),
    ),
}
# Origin, name, and the images' height and width. At 128 pixels torchvision's adaptive pool
# of the auxiliary heads and the paper's are the same.
CASES = [
    ("torchvision", "resnet18", 64),
    ("torchvision", "resnet50", 64),
    ("torchvision", "resnext50_32x4d", 64),
    ("torchvision", "googlenet", 128),
    ("timm", "resnet50", 64),
    ("timm", "resnetv2_18", 64),
    ("timm", "resnetv2_50", 75),
]


def original(origin: str, name: str, seed: int = SEED) -> Any:
    """Return a network in evaluation mode, with random weights that the seed determines."""
    network = BUILDERS[origin](name).eval()
    state = {
        key: torch.from_numpy(random_tensor(key, tuple(tensor.shape), seed))
        for key, tensor in network.state_dict().items()
    }
    network.load_state_dict(state, strict=True)
    return network


def answers(network: Any, images: Array) -> dict[str, Array]:
    """Return the logits [N, K] by name: `main`, and of a GoogLeNet `aux1` and `aux2`.

    torch computes the auxiliary heads in training only: here each reads its map in evaluation.
    """
    found: dict[str, Any] = {}
    hooks = [
        getattr(network, module).register_forward_hook(
            lambda _, __, output, head=head: found.update({head: getattr(network, head)(output)})
        )
        for head, module in (("aux1", "inception4a"), ("aux2", "inception4d"))
        if getattr(network, head, None) is not None
    ]
    with torch.inference_mode():
        found["main"] = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for hook in hooks:
        hook.remove()
    return {head: logits.numpy() for head, logits in found.items()}


def shapes_in_timm(*modules: str) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Yield the name of each network in modules of timm, and the shapes in its state dict."""
    for name in timm.list_models():
        if timm.models.is_model_in_modules(name, modules):
            with torch.device("meta"):
                state = timm.create_model(name).state_dict()
            yield name, {key: tuple(tensor.shape) for key, tensor in state.items()}


def write_golden(origin: str, name: str, size: int) -> None:
    network = original(origin, name)
    shape = (2, size, size, 3)
    golden = {
        "made_by": {each.__name__: each.__version__ for each in (torch, torchvision, timm)},
        "seed": SEED,
        "images": shape,
        "tensors": {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()},
        "logits": {
            head: [[float(f"{value:.7g}") for value in row] for row in logits.tolist()]
            for head, logits in answers(network, random_images(shape, SEED)).items()
        },
    }
    path = GOLDENS / f"{origin}_{name}.json"
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    for case in CASES:
        write_golden(*case)
