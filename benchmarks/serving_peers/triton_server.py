"""Triton from nvidia-pytriton's wheel, with two instances of a model for its Python backend.

The model runs ONNX Runtime. It is served as NAME, which takes uint8 tensors, and as NAME_image,
which takes encoded images. The server of the wheel is used without pytriton itself. The processes
of the model import the packages of this environment.
"""

import os
import sys
import tempfile
from pathlib import Path

from triton_wheel import PACKAGES, start

MODEL = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
import numpy as np
import triton_python_backend_utils as triton
from classifier import Classifier

class TritonPythonModel:
    def initialize(self, arguments):
        self.classifier = Classifier(Path({directory!r}))

    def execute(self, requests):
        inputs = [triton.get_input_tensor_by_name(r, {input!r}).as_numpy() for r in requests]
        if {input!r} == "image":
            inputs = [np.stack([self.classifier.decode(e[0]) for e in each]) for each in inputs]
        rows = self.classifier.run(np.concatenate(inputs))
        parts = np.split(rows, np.cumsum([len(each) for each in inputs])[:-1])
        return [triton.InferenceResponse(self.outputs(part)) for part in parts]

    def outputs(self, rows):
        if {input!r} == "images":
            return [triton.Tensor("probabilities", rows)]
        best = [self.classifier.best(row) for row in rows]
        labels = [[e["label"].encode() for e in row] for row in best]
        probabilities = [[e["probability"] for e in row] for row in best]
        return [
            triton.Tensor("labels", np.array(labels, object)),
            triton.Tensor("top_probabilities", np.array(probabilities, np.float32)),
        ]
"""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 64
input [ {{ name: "{input}" data_type: {kind} dims: {dims} }} ]
output [ {outputs} ]
instance_group [ {{ count: 2 kind: KIND_CPU }} ]
dynamic_batching {{}}
"""


def output(name: str, kind: str, size: int) -> str:
    return f'{{ name: "{name}" data_type: {kind} dims: [ {size} ] }}'


def write_models(root: Path, directory: Path) -> None:
    """Write the directories of the two models, each with its code and its configuration."""
    from classifier import Classifier

    manifest = Classifier(directory).manifest
    path = [str(Path(__file__).parent), *os.environ["PYTHONPATH"].split(os.pathsep)]
    path.append(PACKAGES)
    name, classes = directory.parent.name, manifest.outputs[0].shape[1] or 0
    dims = str(list(manifest.input.shape[1:]))
    images = (name, "images", "TYPE_UINT8", dims, output("probabilities", "TYPE_FP32", classes))
    best = f"{output('labels', 'TYPE_STRING', 5)}, {output('top_probabilities', 'TYPE_FP32', 5)}"
    for model, tensor, kind, dims, outputs in [
        images,
        (f"{name}_image", "image", "TYPE_STRING", "[ 1 ]", best),
    ]:
        folder = root / model / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(
            MODEL.format(path=path, directory=str(directory), input=tensor)
        )
        (folder.parent / "config.pbtxt").write_text(
            CONFIG.format(name=model, input=tensor, kind=kind, dims=dims, outputs=outputs)
        )


def main() -> None:
    directory, http_port, grpc_port = sys.argv[1:]
    root = Path(tempfile.mkdtemp())
    write_models(root / "models", Path(directory).resolve())
    start(root / "models", root, http_port, grpc_port)


if __name__ == "__main__":
    main()
