"""ONNX in int8: model.onnx is quantized for ONNX Runtime, with uint8 activations and int8 weights.

Activations must be uint8: on x86, ONNX Runtime has no kernel for int8 activations and runs such
operations in float. The ranges of activations are measured on images of the training split; weights
have one scale per channel. The logits stay in float, so that the softmax keeps its resolution.

If the int8 model loses too much accuracy on the calibration images, the sensitivity of each node is
measured. The sensitivity of a node is the error of a model in which only this node is int8. The
most sensitive nodes then stay in float, as many as the accuracy requires.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export.errors import check_names
from keras_cnns_export.formats import onnx as float_onnx

if TYPE_CHECKING:
    from keras_cnns_export.batches import Array, Predict
    from keras_cnns_export.graph import Source

_PATH = "model.int8.onnx"
FILES = (_PATH,)
# With "minmax", the range of a tensor covers all of its values. With "entropy", the range may
# exclude outliers: it minimizes the KL divergence between the distributions of the values before
# and after quantization. With "percentile", the range covers 99.999 % of the values.
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")
_OPERATIONS = ("Conv", "MatMul", "Gemm", "Add", "Concat", "Relu", *_POOLS)
# The int8 accuracy on the calibration images must be at least this fraction of the float accuracy.
# The comparison before publication is less strict; it demands a fraction of 0.99.
_MIN_KEPT = 0.995
_MAX_FLOAT = 0.25  # maximum fraction of nodes in float; with more, int8 gains little
_PROBES = 64  # number of images on which a node's sensitivity is measured
_CHUNK = 8  # images per chunk; calibration holds all activations of one chunk in memory


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write `version`/model.int8.onnx from its model.onnx; return its entry in model.json.

    Raises:
        ExportError: the method of calibration is unknown.
    """
    from onnx import checker

    quantization = source.quantization
    check_names("method of calibration", [quantization.method], METHODS)
    from keras_cnns_export.batches import first

    images, labels = first(source.training_batches(), quantization.samples)
    with tempfile.TemporaryDirectory(prefix="keras-cnns-") as directory:
        quantizer = _Quantizer(version / float_onnx.PATH, images, source, Path(directory))
        sensitive = _sensitive_nodes(quantizer, images, labels)
        quantizer.save(version / _PATH, exclude=sensitive)
    checker.check_model(version / _PATH, full_check=True)
    return {
        "path": _PATH,
        "calibration": {"method": quantization.method, "samples": len(images)},
        "float_nodes": [*quantizer.always_float, *sensitive],
    }


def load(version: Path) -> Predict:
    """Load the file in ONNX Runtime on the CPU: images uint8 [N, H, W, C] -> named outputs."""
    return float_onnx.load_file(version / _PATH)


class _Quantizer:
    """Create int8 models from a float model; some nodes can stay in float."""

    def __init__(self, path: Path, images: Array, source: Source, directory: Path) -> None:
        import onnx

        with _quiet_root_logger():
            from onnxruntime.quantization import CalibrationMethod
            from onnxruntime.quantization.calibrate import create_calibrator
        self.path, self.directory = path, directory
        nodes = onnx.load(path).graph.node
        # A convolution before a Sqrt sums squares for a local response normalization. It stays in
        # float, because the range of a sum of squares is too wide for int8.
        roots = {node.input[0] for node in nodes if node.op_type == "Sqrt"}
        self.always_float = [
            node.name for node in nodes if node.op_type == "Conv" and node.output[0] in roots
        ]
        known = [node.name for node in nodes if node.op_type in _OPERATIONS]
        # Nodes that may become int8.
        self.nodes = [name for name in known if name not in self.always_float]
        self.reference = float_onnx.load_file(path)
        calibrator = create_calibrator(
            path,
            _OPERATIONS,
            augmented_model_path=str(directory / "augmented.onnx"),
            calibrate_method=CalibrationMethod[METHODS[source.quantization.method]],
            providers=["CPUExecutionProvider"],
        )
        (name,) = (spec.name for spec in source.graph.inputs)
        with contextlib.redirect_stdout(io.StringIO()):  # hides the line printed for each chunk
            for start in range(0, len(images), _CHUNK):
                calibrator.collect_data(_Reader({name: images[start : start + _CHUNK]}))
            self.ranges = calibrator.compute_data()

    def save(self, path: Path, *, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Write the int8 model: quantize the nodes in `only`, or all nodes except `exclude`."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        model = load_model_with_shape_infer(self.path)
        with _quiet_root_logger():
            quantizer = QDQQuantizer(
                model,
                True,  # one scale per channel
                False,  # the full range of 8 bits
                QuantType.QInt8,
                QuantType.QUInt8,
                self.ranges,
                list(only),
                [*self.always_float, *exclude],
                list(_OPERATIONS),
                {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
            )
            quantizer.quantize_model()
        del model.graph.value_info[:]
        for row in [row for row in model.metadata_props if row.key.startswith("onnx.")]:
            model.metadata_props.remove(row)  # metadata that only the quantizer uses
        quantizer.model.save_model_to_file(str(path), False)

    def predict(self, images: Array, **nodes: Sequence[str]) -> Array:
        """Return the probabilities [N, K] of an int8 model.

        Args:
            images: uint8 [N, H, W, C].
            nodes: the arguments `only` and `exclude` of `save`.
        """
        path = self.directory / "trial.onnx"
        self.save(path, **nodes)
        return _probabilities(float_onnx.load_file(path), images)


def _sensitive_nodes(quantizer: _Quantizer, images: Array, labels: Array | None) -> list[str]:
    """Return the nodes that stay in float to keep at least `_MIN_KEPT` of the float accuracy.

    These are the most sensitive nodes, but at most a quarter of all nodes (`_MAX_FLOAT`). If the
    accuracy is then still too low, the comparison on the validation split decides whether the
    format is published.
    """
    expected = _probabilities(quantizer.reference, images)
    target = expected.argmax(axis=1) if labels is None else labels
    min_accuracy = _MIN_KEPT * float((expected.argmax(axis=1) == target).mean())

    def accuracy(exclude: Sequence[str]) -> float:
        given = quantizer.predict(images, exclude=exclude)
        return float((given.argmax(axis=1) == target).mean())

    if accuracy([]) >= min_accuracy:
        return []
    probes, reference = images[:_PROBES], expected[:_PROBES]
    error = {
        node: float(abs(quantizer.predict(probes, only=[node]) - reference).mean())
        for node in quantizer.nodes
    }
    worst_first = sorted(quantizer.nodes, key=lambda node: -error[node])
    max_count, count = math.ceil(_MAX_FLOAT * len(worst_first)), 1
    while count < max_count and accuracy(worst_first[:count]) < min_accuracy:
        count *= 2
    return worst_first[: min(count, max_count)]


def _probabilities(predict: Predict, images: Array) -> Array:
    import numpy as np

    chunks = range(0, len(images), _CHUNK)
    return np.concatenate(
        [predict(images[start : start + _CHUNK])["probabilities"] for start in chunks]
    )


class _Reader:
    """A data reader for ONNX Runtime's calibration that yields a single batch."""

    def __init__(self, batch: Mapping[str, Array]) -> None:
        self._batches = iter([batch])

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Mute the advice that ONNX Runtime's quantization logs to the root logger."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
