"""The interface of engines, and checks of the graphs that they open."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.manifest import Manifest, Tensor

# Larger batches are run in pieces, to limit the memory of activations: ResNet-50 at 224x224 needs
# about 0.4 GB for 32 images.
MAX_BATCH = 32

Outputs = dict[str, NDArray[Any]]
Names = Sequence[str] | None  # names of outputs; None: all


class Engine(Protocol):
    """Runs one version of a model; thread-safe."""

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to the outputs [N, ...] in `names`; None: all outputs."""


class LoadedEngine(Engine, Protocol):
    """An engine that can free the memory of its largest batch."""

    def shrink(self) -> None:
        """Free memory that only large batches need, if the library can; this may run the graph."""


def run_in_pieces(
    run: Any, images: NDArray[np.uint8], names: Sequence[str], size: int = MAX_BATCH
) -> Outputs:
    """Run a batch in pieces of at most `size` images.

    Args:
        run: maps images to the outputs, in the order of `names`.
        images: the batch [N, H, W, C].
        names: the names of the outputs.
        size: the maximum number of images of a piece.
    """
    if len(images) <= size:
        return dict(zip(names, run(images), strict=True))
    pieces = [run(images[start : start + size]) for start in range(0, len(images), size)]
    columns = zip(*pieces, strict=True)
    return {name: np.concatenate(values) for name, values in zip(names, columns, strict=True)}


def black_image(manifest: Manifest) -> NDArray[np.uint8]:
    """Return a black image [1, H, W, C] of the size that the graph takes."""
    height, width = manifest.preprocessing.crop
    return np.zeros((1, height, width, manifest.preprocessing.channels), np.uint8)


def warm_up(
    engine: Engine, manifest: Manifest, path: str, image: NDArray[np.uint8] | None = None
) -> Outputs:
    """Run the graph once, because its first run is slow: it allocates memory and reorders weights.

    Args:
        engine: the engine.
        manifest: the manifest, with the shapes of the outputs.
        path: the path of the engine's file, for the message.
        image: the image [1, H, W, C]; by default a black one.

    Returns:
        All outputs of the image.

    Raises:
        VersionRefusedError: the run fails, or its outputs do not have the shapes in `manifest`.
    """
    try:
        outputs = engine.run(black_image(manifest) if image is None else image)
    except Exception as error:
        raise VersionRefusedError(f"{path} does not run: {one_line(error)}") from error
    for output in manifest.outputs:
        # Also check the shapes of the results, because model.json may specify dimensions that the
        # graph leaves open.
        _check_shape(outputs[output.name].shape, output, path)
    return outputs


def check_signature(
    path: str, manifest: Manifest, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Check that the graph has all tensors of model.json and no other input.

    Raises:
        VersionRefusedError: the graph and model.json differ.
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
                f"{path} has {tensor.name} of type {node.dtype}; model.json says {tensor.dtype}"
            )
        # None means that the graph does not specify the dimension.
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
