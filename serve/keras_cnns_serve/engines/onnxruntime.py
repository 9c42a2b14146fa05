"""ONNX Runtime on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.manifest import Manifest, Tensor

from .base import Names, Outputs, check_signature, run_in_pieces

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

    ONNX Runtime keeps all of Python from running while it opens and optimises a graph. It therefore
    does not compute constant parts of the graph, which could take for ever: exporters have done so,
    and every run that computes one can be interrupted.

    Args:
        path: The ONNX file.
        manifest: What `model.json` says of it; the file must agree.
        threads: How many threads work on one image. One is right for small networks, whose
            operators are too short to share, and leaves the cores to other requests.

    Raises:
        VersionRefusedError: The file does not load, or is not what `manifest` says.
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
                path,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["ConstantFolding"],
            )
        except Exception as error:
            raise VersionRefusedError(f"{path.name} does not load: {one_line(error)}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_signature(path.name, manifest, _tensors(inputs), _tensors(outputs))
        self._outputs = [output.name for output in manifest.outputs]
        self._shape = manifest.input.shape[1:]
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = 4  # as above

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to outputs, each [N, ...]: those named, or all."""
        wanted = list(names or self._outputs)
        run, options = self._session.run, self._options
        return run_in_pieces(lambda piece: run(wanted, {"images": piece}, options), images, wanted)

    def interrupt(self) -> None:
        """End the runs in progress after their current operator, and fail later ones."""
        self._options.terminate = True

    def shrink(self) -> None:
        """Run one image, and free what the arena then does not hold for it.

        The arena keeps the memory of the largest batch: 150 to 250 MB for 16 images of 224x224.
        Without it, or if every run freed it, a run would take 9 to 15 % longer.
        """
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        image = np.zeros((1, *(size or 1 for size in self._shape)), np.uint8)
        self._session.run(self._outputs, {"images": image}, options)


def _tensors(nodes: list[onnxruntime.NodeArg]) -> dict[str, Tensor]:
    return {
        node.name: Tensor(
            node.name,
            DTYPES.get(node.type, node.type),
            tuple(size if isinstance(size, int) else None for size in node.shape),
        )
        for node in nodes
    }
