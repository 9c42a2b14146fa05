"""ONNX Runtime on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.manifest import Manifest, Tensor

from .base import Outputs, check_signature, run_in_pieces, warm_up

# ONNX Runtime's names for the types that model.json may have.
DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float)": "float32",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}

onnxruntime.set_default_logger_severity(4)  # what matters comes back as an exception


class OnnxRuntimeEngine:
    """An ONNX file.

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
            raise VersionRefusedError(f"{path.name} does not load: {one_line(error)}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_signature(path.name, manifest, _tensors(inputs), _tensors(outputs))
        self._outputs = [output.name for output in manifest.outputs]
        warm_up(self, manifest, path.name)

    def run(self, images: NDArray[np.uint8], names: Sequence[str] | None = None) -> Outputs:
        """Maps uint8 pixels [N, H, W, C] to outputs, each [N, ...]: those named, or all."""
        wanted = list(names or self._outputs)
        run = self._session.run
        return run_in_pieces(lambda piece: run(wanted, {"images": piece}), images, wanted)


def _tensors(nodes: list[onnxruntime.NodeArg]) -> dict[str, Tensor]:
    return {
        node.name: Tensor(
            node.name,
            DTYPES.get(node.type, node.type),
            tuple(size if isinstance(size, int) else None for size in node.shape),
        )
        for node in nodes
    }
