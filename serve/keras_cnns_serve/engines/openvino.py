"""The engine OpenVINO, on the CPU; the extra `openvino`."""

import contextlib
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.manifest import Manifest, Tensor

from .base import Names, Outputs, check_signature, run_in_pieces

_DTYPES = {"u8": "uint8", "f32": "float32", "i32": "int32", "i64": "int64"}  # OpenVINO's names
# By default, OpenVINO computes in bfloat16 if the CPU supports it. Request the exported precision.
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class OpenVinoEngine:
    """Run an OpenVINO model, or an ONNX file.

    Args:
        path: an ONNX file, or an XML file whose weights are in the .bin file beside it.
        manifest: the manifest, with which the file must agree.
        threads: the number of threads for one image.
        streams: the number of concurrent runs.
        precision: "float32", "bfloat16" or "int8".

    Raises:
        VersionRefusedError: the file cannot be loaded, or does not agree with `manifest`.
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
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
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
        # Only one thread at a time can use an inference request, so each thread has a request.
        self._of_thread = threading.local()
        self._requests: list[weakref.ref[Any]] = []  # a request ends with its thread
        self._lock = threading.Lock()
        self._interrupted = False

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to the outputs [N, ...] in `names`; None: all outputs."""
        requested = list(names or self._outputs)
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._model.create_infer_request()
            with self._lock:
                self._requests = [each for each in self._requests if each() is not None]
                self._requests.append(weakref.ref(request))
            if self._interrupted:
                raise RuntimeError("the engine was interrupted")

        def run(piece: NDArray[np.uint8]) -> list[NDArray[Any]]:
            # The results are copied, because the next run of this request overwrites them.
            request.infer({"images": np.ascontiguousarray(piece)}, share_inputs=True)
            return [request.get_tensor(name).data.copy() for name in requested]

        return run_in_pieces(run, images, requested)

    def shrink(self) -> None:
        """Free the memory of runs, unless one is in progress; the next run allocates it again."""
        with contextlib.suppress(RuntimeError):
            self._model.release_memory()

    def interrupt(self) -> None:
        """End the runs in progress after their current operator, which may be a whole loop."""
        self._interrupted = True
        with self._lock:
            requests = [each() for each in self._requests]
        for request in requests:
            if request is not None:
                request.cancel()


def _tensors(ports: Sequence[Any]) -> dict[str, Tensor]:
    return {
        name: Tensor(
            name,
            _DTYPES.get(port.get_element_type().get_type_name(), str(port.get_element_type())),
            tuple(
                None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
            ),
        )
        for port in ports
        for name in sorted(port.get_names())
    }
