"""The engine ONNX Runtime, on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.manifest import Manifest, Tensor

from .base import Names, Outputs, check_signature, run_in_pieces

# ONNX Runtime's names of the types in model.json.
_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float)": "float32",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}

onnxruntime.set_default_logger_severity(4)  # errors are raised as exceptions


class OnnxRuntimeEngine:
    """Run an ONNX file.

    ONNX Runtime holds the interpreter's lock while it opens and optimises a graph. Constant
    folding, which cannot be interrupted as a run can, could therefore block the process forever. It
    is disabled; exporters have already folded constants.

    Args:
        path: the ONNX file.
        manifest: the manifest, with which the file must agree.
        threads: the number of threads for one image. One thread is best for small networks, whose
            operators are too short to parallelise. It also leaves the other cores to other
            requests.

    Raises:
        VersionRefusedError: the file cannot be loaded, or does not agree with `manifest`.
    """

    def __init__(self, path: Path, manifest: Manifest, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A waiting thread that spins would occupy a core that decoding and other models need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # If the graph is opened by its path instead of from bytes, external data is read from
            # the version's directory, and ONNX Runtime rejects data outside it.
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
        self._options.log_severity_level = 4  # errors are raised as exceptions

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to the outputs [N, ...] in `names`; None: all outputs."""
        requested = list(names or self._outputs)
        run, options = self._session.run, self._options
        return run_in_pieces(
            lambda piece: run(requested, {"images": piece}, options), images, requested
        )

    def interrupt(self) -> None:
        """End the runs in progress after their current operator, and make later runs fail."""
        self._options.terminate = True

    def shrink(self) -> None:
        """Run one image, and free the arena's memory that this run does not need.

        The arena is ONNX Runtime's allocator. It keeps the memory of the largest batch, which is
        150 to 250 MB for 16 images of 224x224. If there were no arena, or if each run shrank it, a
        run would take 9 to 15 % longer.
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
            _DTYPES.get(node.type, node.type),
            tuple(size if isinstance(size, int) else None for size in node.shape),
        )
        for node in nodes
    }
