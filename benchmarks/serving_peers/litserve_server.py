"""LitServe with two workers and its fast queue, without batching.

LitServe accepts images only in forms or in JSON. The images are sent as base64 in JSON, which is
faster.
"""

import base64
import sys
from pathlib import Path
from typing import Any

import litserve
from classifier import Classifier

DIRECTORY, PORT = Path(sys.argv[1]), int(sys.argv[2])


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = Classifier(DIRECTORY)

    def decode_request(self, request: dict[str, Any]) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, content: bytes) -> Any:
        return self.classifier.classify([content])[0]

    def encode_response(self, labels: Any) -> dict[str, Any]:
        return {"labels": labels}


if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu", workers_per_device=2, fast_queue=True).run(
        host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning"
    )
