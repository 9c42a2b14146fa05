"""The classifier of every other server: this project's decoder, and an ONNX Runtime session.

Each of these servers is a program `PYTHON NAME_server.py MODEL_DIRECTORY HTTP_PORT GRPC_PORT`. Its
PYTHONPATH has `serve/`, so that all servers decode images with the same function.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from keras_cnns_serve.images.decoding import read_image
from keras_cnns_serve.repository.manifest import read_manifest


class Classifier:
    """A version of a model, which decodes images and computes their probabilities and labels."""

    def __init__(self, directory: Path, threads: int = 1) -> None:
        self.manifest = read_manifest(directory / "model.json")
        self.labels = (directory / self.manifest.labels).read_text("utf-8").splitlines()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            directory / "model.onnx", options, providers=["CPUExecutionProvider"]
        )

    def decode(self, content: bytes) -> NDArray[np.uint8]:
        """Decode and preprocess an encoded image: uint8 [H, W, C]."""
        return read_image(content, self.manifest.preprocessing)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model: images [N, H, W, C] -> probabilities [N, K]."""
        probabilities: NDArray[np.float32] = self._session.run(
            ["probabilities"], {"images": images}
        )[0]
        return probabilities

    def classify(self, contents: list[bytes]) -> list[list[dict[str, Any]]]:
        """Return the five most probable labels of each encoded image."""
        return [
            self.best(row) for row in self.run(np.stack([self.decode(each) for each in contents]))
        ]

    def best(self, row: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Return the five most probable labels with their probabilities."""
        return [
            {"label": self.labels[index], "probability": float(row[index])}
            for index in np.argsort(-row, kind="stable")[:5]
        ]
