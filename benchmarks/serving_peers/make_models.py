"""Export the models of the benchmark: ResNet-20 at 32x32 and ResNet-50 at 224x224 pixels.

    python benchmarks/serving_peers/make_models.py REPOSITORY

The weights are random. The export runs in a process of its own, so that the process of the
benchmark has no threads of TensorFlow.
"""

import sys
from pathlib import Path

from keras_cnns.models import build
from keras_cnns_export import export

PHOTOGRAPH = {"resize_shorter": 256, "crop": 224, "interpolation": "bilinear"}
MODELS = {
    "resnet20": (10, None),
    "resnet50": (1000, PHOTOGRAPH | {"antialias": True, "channels": 3}),
}


def main() -> None:
    for name, (classes, preprocessing) in MODELS.items():
        export(
            build(name),
            to=Path(sys.argv[1]) / name,
            labels=[f"class-{number}" for number in range(classes)],
            preprocessing=preprocessing,
            formats=("onnx",),
        )


if __name__ == "__main__":
    main()
