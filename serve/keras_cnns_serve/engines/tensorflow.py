"""The engine TensorFlow, for SavedModels; the extra `tensorflow`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.manifest import Manifest, Tensor

from .base import Names, Outputs, check_signature, run_in_pieces


class TensorFlowEngine:
    """Run the signature `serving_default` of a SavedModel, on threads that all models share.

    A run cannot be interrupted. If the trial run of a version never ends, the version is refused,
    but the run continues until the process ends.

    Args:
        path: the file saved_model.pb.
        manifest: the manifest, with which the signature must agree.

    Raises:
        VersionRefusedError: the model cannot be loaded, or does not agree with `manifest`.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(str(path.parent))
            self._signature = self._model.signatures["serving_default"]
        except Exception as error:
            raise VersionRefusedError(f"{path.name} does not load: {one_line(error)}") from error
        inputs = self._signature.structured_input_signature[1]
        outputs = self._signature.structured_outputs
        check_signature(path.name, manifest, _tensors(inputs), _tensors(outputs))
        self._constant = tf.constant
        self._outputs = [output.name for output in manifest.outputs]

    def run(self, images: NDArray[np.uint8], names: Names = None) -> Outputs:
        """Map uint8 pixels [N, H, W, C] to the outputs [N, ...] in `names`; None: all outputs."""
        requested = list(names or self._outputs)

        def run(piece: NDArray[np.uint8]) -> list[NDArray[Any]]:
            outputs = self._signature(images=self._constant(piece))
            return [outputs[name].numpy() for name in requested]

        return run_in_pieces(run, images, requested)

    def shrink(self) -> None:
        """Do nothing: TensorFlow's allocator returns memory by itself."""


def _tensors(specs: Any) -> dict[str, Tensor]:
    return {
        name: Tensor(name, spec.dtype.name, tuple(spec.shape.as_list()))
        for name, spec in specs.items()
    }
