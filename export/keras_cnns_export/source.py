"""What every format is written from."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from keras_cnns_export.contract import Preprocessing

if TYPE_CHECKING:
    from keras_cnns_export.graph import ServingGraph
    from keras_cnns_export.samples import Batch


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How an int8 format chooses the range of an activation."""

    samples: int = 256  # images of the training split
    method: str = "minmax"  # as the writer of the format knows it


@dataclasses.dataclass(frozen=True)
class Source:
    """What a format's `write` is given, beside the version's directory."""

    graph: "ServingGraph"
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    training_batches: Callable[[], Iterator["Batch"]]  # batches: images uint8 [N, H, W, C], classes
    name: str = "model"  # of the model in its repository
    opset: int = 17  # of ONNX
    quantization: Quantization = Quantization()
