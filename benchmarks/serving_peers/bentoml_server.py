"""BentoML with two workers; the body of a request is the encoded image."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from classifier import Classifier

QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=2, traffic={"timeout": 60}, metrics={"enabled": False}, logging=QUIET)
class Service:
    def __init__(self) -> None:
        self.classifier = Classifier(Path(os.environ["MODEL_DIRECTORY"]))

    @bentoml.api(route="/classify")
    def classify(self, image: Annotated[Path, ContentType("image/jpeg")], /) -> Any:
        return self.classifier.classify([image.read_bytes()])[0]


if __name__ == "__main__":
    os.environ["MODEL_DIRECTORY"] = sys.argv[1]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.chdir(Path(__file__).parent)
    command = [sys.executable, "-m", "bentoml", "serve", "bentoml_server:Service"]
    os.execv(command[0], [*command, "--host", "127.0.0.1", "--port", sys.argv[2]])
