"""Run Triton, from nvidia-pytriton's wheel, on an exported model repository without changes.

    python triton_repository.py MODELS HTTP_PORT GRPC_PORT

config.pbtxt names Triton's backend for ONNX Runtime. NVIDIA's image has this backend, but the wheel
does not. A backend in Python with the same name replaces it. Triton itself reads config.pbtxt,
checks inputs and outputs, combines requests into batches, and adds the labels.
"""

import sys
import tempfile
from pathlib import Path

from triton_wheel import PACKAGES, start

BACKEND = f"""
import sys
sys.path.insert(0, {PACKAGES!r})
import json
from pathlib import Path
import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, arguments):
        config = json.loads(arguments["model_config"])
        version = Path(arguments["model_repository"]) / arguments["model_version"]
        self.session = onnxruntime.InferenceSession(version / config["default_model_filename"])
        [self.input] = [each["name"] for each in config["input"]]
        self.outputs = [each["name"] for each in config["output"]]

    def execute(self, requests):
        images = [triton.get_input_tensor_by_name(r, self.input).as_numpy() for r in requests]
        outputs = self.session.run(self.outputs, {{self.input: np.concatenate(images)}})
        ends = np.cumsum([len(each) for each in images])[:-1]
        rows = zip(*(np.split(each, ends) for each in outputs))
        return [
            triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self.outputs, each)])
            for each in rows
        ]
"""


if __name__ == "__main__":
    models, http_port, grpc_port = sys.argv[1:]
    scratch = Path(tempfile.mkdtemp())
    start(Path(models).resolve(), scratch, http_port, grpc_port, {"onnxruntime": BACKEND})
