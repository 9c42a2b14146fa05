"""MLServer, with the model in the server's process: 0 `parallel_workers` are faster here than 2.

A custom handler takes the encoded image as the body of the request, so that MLServer need not
decode base64 in JSON. Tensors are sent over gRPC.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from classifier import Classifier
from fastapi import Request, Response
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self.classifier = Classifier(Path(os.environ["MODEL_DIRECTORY"]))
        return True

    @custom_handler(rest_path="/classify")
    async def classify(self, request: Request) -> Response:
        content = await request.body()
        body = json.dumps({"labels": self.classifier.classify([content])[0]})
        return Response(body, media_type="application/json")

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("probabilities", self.classifier.run(images))
        return InferenceResponse(model_name=self.name, outputs=[output])


def write(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(settings), "utf-8")


if __name__ == "__main__":
    directory, http_port, grpc_port = sys.argv[1:]
    os.environ["MODEL_DIRECTORY"] = directory
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    folder = Path(tempfile.mkdtemp())
    ports = {"http_port": int(http_port), "grpc_port": int(grpc_port), "metrics_endpoint": None}
    settings = {"host": "127.0.0.1", "debug": False, "parallel_workers": 0}
    write(folder / "settings.json", settings | ports)
    name = Path(directory).parent.name
    write(
        folder / "model-settings.json",
        {"name": name, "implementation": "mlserver_server.Runtime"},
    )
    program = Path(sys.executable).with_name("mlserver")
    os.execv(program, [str(program), "start", str(folder)])
