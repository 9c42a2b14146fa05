"""ONNX in int8: model.onnx quantized for ONNX Runtime, activations uint8, weights int8.

Activations must be uint8: ONNX Runtime has no kernel on x86 for int8 ones and runs them in float.
Every tensor gets its range from images of the training split; weights have a scale per channel.
The logits stay in float, so that a softmax keeps its resolution.

Where that loses accuracy on those images, the nodes that the answers depend on most are measured
(each alone in int8, against float) and return to float, worst first, until enough is kept.
"""

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export import onnx_model
from keras_cnns_export.errors import check_names
from keras_cnns_export.source import Source

if TYPE_CHECKING:
    from keras_cnns_export.graph import Array, Predict

PATH = "model.int8.onnx"
FILES = (PATH,)
# Ranges: the extremes, or those that cut outliers off (KL divergence; 99.999 % of the values).
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")
OPERATIONS = ("Conv", "MatMul", "Gemm", "Add", "Concat", "Relu", *POOLS)
KEPT = 0.995  # of the float accuracy on the calibration images; half of what publication allows
MOST_FLOAT = 0.25  # of the nodes: with more there is little left to gain
PROBES = 64  # images that a node's sensitivity is measured on
_CHUNK = 8  # images: calibration holds every activation of a chunk in memory


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write `version`/model.int8.onnx from the model.onnx beside it; its entry in model.json.

    Raises:
        ExportError: there is no such method of calibration.
    """
    from onnx import checker

    from keras_cnns_export.samples import first

    check_names("method of calibration", [source.quantization.method], METHODS)
    images, labels = first(source.training_batches(), source.quantization.samples)
    with tempfile.TemporaryDirectory(prefix="keras-cnns-") as directory:
        quantizer = _Quantizer(version / onnx_model.PATH, images, source, Path(directory))
        sensitive = _search(quantizer, images, labels)
        quantizer.save(version / PATH, exclude=sensitive)
    checker.check_model(version / PATH, full_check=True)
    return {
        "path": PATH,
        "calibration": {"method": source.quantization.method, "samples": len(images)},
        "float_nodes": [*quantizer.always_float, *sensitive],
    }


def load(version: Path) -> "Predict":
    """The written file in ONNX Runtime on the CPU: images uint8 [N, H, W, C] -> named outputs."""
    return onnx_model.session(version / PATH)


class _Quantizer:
    """A float model and the ranges of its tensors: makes int8 models with some nodes in float."""

    def __init__(self, path: Path, images: "Array", source: Source, directory: Path) -> None:
        with _quiet_root_logger():
            from onnxruntime.quantization import CalibrationMethod
            from onnxruntime.quantization.calibrate import create_calibrator
        self.path, self.directory = path, directory
        self.always_float = _normalizing(path)
        self.reference = onnx_model.session(path)
        calibrator = create_calibrator(
            path,
            OPERATIONS,
            augmented_model_path=str(directory / "augmented.onnx"),
            calibrate_method=CalibrationMethod[METHODS[source.quantization.method]],
            providers=["CPUExecutionProvider"],
        )
        (name,) = (spec.name for spec in source.graph.inputs)
        with contextlib.redirect_stdout(io.StringIO()):  # a line for each chunk
            for start in range(0, len(images), _CHUNK):
                calibrator.collect_data(_Reader({name: images[start : start + _CHUNK]}))
            self.ranges = calibrator.compute_data()

    def nodes(self) -> list[str]:
        """The names of the nodes that become int8, in the graph's order."""
        import onnx

        graph = onnx.load(self.path).graph
        known = [node.name for node in graph.node if node.op_type in OPERATIONS]
        return [name for name in known if name not in self.always_float]

    def save(self, path: Path, *, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Write the int8 model: all nodes, `only` some, or all but those to `exclude`."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        model = load_model_with_shape_infer(self.path)
        with _quiet_root_logger():
            quantizer = QDQQuantizer(
                model,
                True,  # a scale per channel
                False,  # the full range of 8 bits
                QuantType.QInt8,
                QuantType.QUInt8,
                self.ranges,
                list(only),
                [*self.always_float, *exclude],
                list(OPERATIONS),
                {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
            )
            quantizer.quantize_model()
        del model.graph.value_info[:]
        for row in [row for row in model.metadata_props if row.key.startswith("onnx.")]:
            model.metadata_props.remove(row)  # notes of the quantizer to itself
        quantizer.model.save_model_to_file(str(path), False)

    def predict(self, images: "Array", **nodes: Sequence[str]) -> "Array":
        """Probabilities [N, K] of an int8 model; `nodes` as in `save`."""
        path = self.directory / "trial.onnx"
        self.save(path, **nodes)
        return _probabilities(onnx_model.session(path), images)


def _normalizing(path: Path) -> list[str]:
    """Convolutions that sum squares for a local response normalization: their range is too wide."""
    import onnx

    nodes = onnx.load(path).graph.node
    under_root = {node.input[0] for node in nodes if node.op_type == "Sqrt"}
    return [node.name for node in nodes if node.op_type == "Conv" and node.output[0] in under_root]


def _search(quantizer: _Quantizer, images: "Array", labels: "Array | None") -> list[str]:
    """The nodes that stay in float for `KEPT` of the accuracy on the calibration images.

    Where a quarter of them is not enough, that quarter: the proof on the validation split decides.
    """
    expected = _probabilities(quantizer.reference, images)
    target = expected.argmax(axis=1) if labels is None else labels
    least = KEPT * float((expected.argmax(axis=1) == target).mean())

    import numpy as np

    def kept(exclude: Sequence[str]) -> float:
        given = quantizer.predict(images, exclude=exclude)
        return float((given.argmax(axis=1) == target).mean())

    if kept([]) >= least:
        return []
    probes, reference = images[:PROBES], expected[:PROBES]
    nodes = quantizer.nodes()
    loss = {
        node: float(np.abs(quantizer.predict(probes, only=[node]) - reference).mean())
        for node in nodes
    }
    worst_first = sorted(nodes, key=lambda node: -loss[node])
    most, count = math.ceil(MOST_FLOAT * len(nodes)), 1
    while count < most and kept(worst_first[:count]) < least:
        count *= 2
    return worst_first[: min(count, most)]


def _probabilities(predict: "Predict", images: "Array") -> "Array":
    import numpy as np

    chunks = range(0, len(images), _CHUNK)
    return np.concatenate(
        [predict(images[start : start + _CHUNK])["probabilities"] for start in chunks]
    )


class _Reader:
    """One batch, as ONNX Runtime's calibration asks for it."""

    def __init__(self, batch: Mapping[str, "Array"]) -> None:
        self._batches = iter([batch])

    def get_next(self) -> "Mapping[str, Array] | None":
        return next(self._batches, None)


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """ONNX Runtime's quantization logs its advice to the root logger."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
