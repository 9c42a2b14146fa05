"""Runs a graph on batches of images. The interface is one method; ONNX Runtime is behind it."""

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .errors import VersionRefusedError
from .manifest import Manifest, Tensor

# ONNX Runtime's names for the types that model.json may have.
DTYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
# Activations grow with the batch: a larger one is run in pieces, so that one request cannot take
# all memory. ResNet-50 at 224x224 needs about 0.4 GB for 32 images.
MAX_BATCH = 32

onnxruntime.set_default_logger_severity(4)  # what matters comes back as an exception


class Engine(Protocol):
    """Something that runs one version of one model; safe to call from several threads."""

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Maps uint8 pixels [N, H, W, C] to the named outputs, each [N, ...]."""


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU.

    Args:
        path: the ONNX file.
        manifest: what `model.json` says of it; the file must agree.
        threads: how many threads work on one image. One is right for small nets, whose
            operators are too short to share, and leaves the cores to other requests.

    Raises:
        VersionRefusedError: the file does not load, does not run, or is not what `manifest` says.
    """

    def __init__(self, path: Path, manifest: Manifest, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores from decoding and from other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # A path, not bytes: external data then resolves in the version's directory, and
            # ONNX Runtime refuses data that leads out of it.
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise VersionRefusedError(f"{path.name} does not load: {_one_line(error)}") from error
        _check("input", self._session.get_inputs(), (manifest.input,), path)
        _check("output", self._session.get_outputs(), manifest.outputs, path)
        self._outputs = [output.name for output in manifest.outputs]
        # The first run allocates and lays out weights; no request should wait for it.
        try:
            height, width = manifest.preprocessing.crop
            warm = self.run(np.zeros((1, height, width, manifest.preprocessing.channels), np.uint8))
        except Exception as error:
            raise VersionRefusedError(f"{path.name} does not run: {_one_line(error)}") from error
        for output in manifest.outputs:
            _check_shape(warm[output.name].shape, output, path)

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Maps uint8 pixels [N, H, W, C] to the named outputs, each [N, ...]."""
        pieces = [
            self._session.run(self._outputs, {"images": images[start : start + MAX_BATCH]})
            for start in range(0, len(images), MAX_BATCH)
        ]
        return {
            name: values[0] if len(values) == 1 else np.concatenate(values)
            for name, values in zip(self._outputs, zip(*pieces, strict=True), strict=True)
        }


def _check(
    kind: str, actual: list[onnxruntime.NodeArg], expected: tuple[Tensor, ...], path: Path
) -> None:
    """Every tensor of model.json is in the graph; the graph needs no input besides."""
    nodes = {node.name: node for node in actual}
    missing = [tensor.name for tensor in expected if tensor.name not in nodes]
    surplus = set(nodes) - {tensor.name for tensor in expected} if kind == "input" else set()
    if missing or surplus:
        raise VersionRefusedError(
            f"{path.name} has the {kind}s {', '.join(nodes)}; model.json says "
            f"{', '.join(tensor.name for tensor in expected)}"
        )
    for tensor in expected:
        node = nodes[tensor.name]
        if node.type != DTYPES.get(tensor.dtype):
            raise VersionRefusedError(
                f"{path.name} has {tensor.name} of {node.type}; model.json says {tensor.dtype}"
            )
        # A dimension that the graph leaves open is a name or None there.
        shape = [size if isinstance(size, int) else None for size in node.shape]
        agree = len(shape) == len(tensor.shape) and all(
            a is None or a == b for a, b in zip(shape, tensor.shape, strict=True)
        )
        if not agree:
            raise VersionRefusedError(
                f"{path.name} has {tensor.name} of shape {shape}; model.json says "
                f"{list(tensor.shape)}"
            )


def _check_shape(actual: tuple[int, ...], expected: Tensor, path: Path) -> None:
    """The graph may leave open what model.json states: a run on one image shows it."""
    wanted = (1, *expected.shape[1:])
    agree = len(actual) == len(wanted) and all(
        size is None or size == given for given, size in zip(actual, wanted, strict=True)
    )
    if not agree:
        raise VersionRefusedError(
            f"{path.name} gives {expected.name} of shape {list(actual)} for one image; "
            f"model.json says {list(expected.shape)}"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
