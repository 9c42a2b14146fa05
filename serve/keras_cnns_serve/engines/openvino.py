"""OpenVINO on the CPU: the extra `openvino`."""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.manifest import Manifest, Tensor

from .base import Names, Outputs, check_signature, run_in_pieces

DTYPES = {"u8": "uint8", "f32": "float32", "i32": "int32", "i64": "int64"}  # OpenVINO's names
# By itself OpenVINO computes in bfloat16 where the machine can: ask for what was proven.
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class OpenVinoEngine:
    """An OpenVINO model, or an ONNX file.

    Args:
        path: The XML file; its weights lie beside it.
        manifest: What `model.json` says of it; the file must agree.
        threads: How many threads work on one image.
        streams: How many images are worked on at a time.
        precision: "float32", "bfloat16" or "int8".

    Raises:
        VersionRefusedError: The file does not load, or is not what `manifest` says.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        threads: int = 1,
        streams: int = 1,
        precision: str = "float32",
    ) -> None:
        import openvino

        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
        }
        try:
            self._model = openvino.Core().compile_model(path, "CPU", options)
        except Exception as error:
            raise VersionRefusedError(f"{path.name} does not load: {one_line(error)}") from error
        check_signature(
            path.name, manifest, _tensors(self._model.inputs), _tensors(self._model.outputs)
        )
        self._outputs = [output.name for output in manifest.outputs]
        self._of_thread = threading.local()  # an inference request serves one thread at a time
        self._requests: list[Any] = []
        self._interrupted = False

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to outputs, each [N, ...]: those named, or all."""
        wanted = list(names or self._outputs)
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._model.create_infer_request()
            self._requests.append(request)
            if self._interrupted:
                raise RuntimeError("it was interrupted")

        def run(piece: NDArray[np.uint8]) -> list[NDArray[Any]]:
            # The tensors belong to the request, which will be used again: copy.
            request.infer({"images": np.ascontiguousarray(piece)}, share_inputs=True)
            return [request.get_tensor(name).data.copy() for name in wanted]

        return run_in_pieces(run, images, wanted)

    def shrink(self) -> None:
        """Free what a run needs, unless one is in progress; the next run allocates it again."""
        with contextlib.suppress(RuntimeError):
            self._model.release_memory()

    def interrupt(self) -> None:
        """End the runs in progress after their current operator, which may be a whole loop."""
        self._interrupted = True
        for request in list(self._requests):
            request.cancel()


def _tensors(ports: Sequence[Any]) -> dict[str, Tensor]:
    return {
        name: Tensor(
            name,
            DTYPES.get(port.get_element_type().get_type_name(), str(port.get_element_type())),
            tuple(
                None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
            ),
        )
        for port in ports
        for name in sorted(port.get_names())
    }
