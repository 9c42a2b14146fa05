"""What every engine has in common: its interface, and the checks of a graph that it opens."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.manifest import Manifest, Tensor

# Activations grow with the batch: a larger one is run in pieces, so that one request cannot take
# all memory. ResNet-50 at 224x224 needs about 0.4 GB for 32 images.
MAX_BATCH = 32

Outputs = dict[str, NDArray[Any]]
Names = Sequence[str] | None  # of outputs; None for all


class Engine(Protocol):
    """Something that runs one version of one model; safe to call from several threads."""

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to outputs, each [N, ...]: those named, or all."""


class LoadedEngine(Engine, Protocol):
    """An engine that holds memory for its largest batch."""

    def shrink(self) -> None:
        """Free what only a large batch needs, as far as the library can; it costs a run."""


def run_in_pieces(
    run: Any, images: NDArray[np.uint8], names: Sequence[str], size: int = MAX_BATCH
) -> Outputs:
    """Run a batch `size` images at a time.

    Args:
        run: Maps images to the outputs, in the order of `names`.
        images: [N, H, W, C].
        names: Those of the outputs.
        size: How many images at a time.
    """
    if len(images) <= size:
        return dict(zip(names, run(images), strict=True))
    pieces = [run(images[start : start + size]) for start in range(0, len(images), size)]
    columns = zip(*pieces, strict=True)
    return {name: np.concatenate(values) for name, values in zip(names, columns, strict=True)}


def warm_up(engine: Engine, manifest: Manifest, path: str) -> None:
    """Run one image: the first run allocates and lays out weights; no request should wait for it.

    Raises:
        VersionRefusedError: It fails, or gives other shapes than `manifest` says.
    """
    height, width = manifest.preprocessing.crop
    try:
        outputs = engine.run(np.zeros((1, height, width, manifest.preprocessing.channels), "u1"))
    except Exception as error:
        raise VersionRefusedError(f"{path} does not run: {one_line(error)}") from error
    for output in manifest.outputs:
        # The graph may leave open what model.json states: a run on one image shows it.
        _check_shape(outputs[output.name].shape, output, path)


def check_signature(
    path: str, manifest: Manifest, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Check that every tensor of model.json is in the graph, which needs no input besides.

    Raises:
        VersionRefusedError: They differ.
    """
    _check("input", inputs, (manifest.input,), path)
    _check("output", outputs, manifest.outputs, path)


def _check(kind: str, nodes: Mapping[str, Tensor], expected: tuple[Tensor, ...], path: str) -> None:
    missing = [tensor.name for tensor in expected if tensor.name not in nodes]
    surplus = set(nodes) - {tensor.name for tensor in expected} if kind == "input" else set()
    if missing or surplus:
        raise VersionRefusedError(
            f"{path} has the {kind}s {', '.join(nodes)}; model.json says "
            f"{', '.join(tensor.name for tensor in expected)}"
        )
    for tensor in expected:
        node = nodes[tensor.name]
        if node.dtype != tensor.dtype:
            raise VersionRefusedError(
                f"{path} has {tensor.name} of {node.dtype}; model.json says {tensor.dtype}"
            )
        # A dimension that the graph leaves open is None there.
        agree = len(node.shape) == len(tensor.shape) and all(
            a is None or a == b for a, b in zip(node.shape, tensor.shape, strict=True)
        )
        if not agree:
            raise VersionRefusedError(
                f"{path} has {tensor.name} of shape {list(node.shape)}; model.json says "
                f"{list(tensor.shape)}"
            )


def _check_shape(actual: tuple[int, ...], expected: Tensor, path: str) -> None:
    wanted = (1, *expected.shape[1:])
    agree = len(actual) == len(wanted) and all(
        size is None or size == given for given, size in zip(actual, wanted, strict=True)
    )
    if not agree:
        raise VersionRefusedError(
            f"{path} gives {expected.name} of shape {list(actual)} for one image; "
            f"model.json says {list(expected.shape)}"
        )
