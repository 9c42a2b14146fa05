"""ONNX, written by tf2onnx: the format that ONNX Runtime and keras-cnns-serve load.

Inputs and outputs have the names of the serving graph, the batch dimension is called `N`, and
`metadata_props` contains the labels and the preprocessing as JSON. Opset 17 gives the cleanest
graph: with opset 18, the global average pool becomes a ReduceMean with an additional Transpose.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export.errors import ExportError, in_one_line

if TYPE_CHECKING:
    from keras_cnns_export.batches import Array, Predict
    from keras_cnns_export.graph import ServingGraph, Source

PATH = "model.onnx"
FILES = (PATH,)
_OPSETS = range(13, 19)  # tf2onnx supports opsets up to 18


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write `version`/model.onnx; return its entry in model.json.

    Raises:
        ExportError: one of the network's operations cannot be expressed in ONNX.
    """
    opset = source.opset
    if opset not in _OPSETS:
        raise ExportError(f"opset {opset}: it must be from {_OPSETS[0]} to {_OPSETS[-1]}")
    import onnx

    from keras_cnns_export.onnx_passes import simplify

    model = convert(source.graph, opset)
    simplify(model)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]  # shapes in which the batch dimension has names other than "N"
    metadata = {
        "labels": json.dumps(list(source.labels), ensure_ascii=False),
        "preprocessing": json.dumps(dataclasses.asdict(source.preprocessing)),
    }
    onnx.helper.set_model_props(model, metadata)
    path = version / PATH
    onnx.save(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = in_one_line(error)
        raise ExportError(f"tf2onnx wrote a file that is no valid ONNX: {reason}") from error
    return {"path": PATH, "opset": opset}


def load(version: Path) -> Predict:
    """Load the file in ONNX Runtime on the CPU: images uint8 [N, H, W, C] -> named outputs."""
    return load_file(version / PATH)


def load_file(path: Path) -> Predict:
    """Load any exported ONNX file, as `load` does.

    Raises:
        ExportError: the file reads weights from outside its directory.
    """
    import onnxruntime

    _check_external_data(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (image_input,) = session.get_inputs()

    def predict(images: Array) -> Mapping[str, Array]:
        results = session.run(names, {image_input.name: images})
        return dict(zip(names, results, strict=True))

    return predict


def _check_external_data(path: Path) -> None:
    import onnx

    directory = path.parent.resolve()
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        for entry in tensor.external_data:
            target = (directory / entry.value).resolve()
            if entry.key == "location" and not target.is_relative_to(directory):
                raise ExportError(
                    f"{path.name} reads the weight {tensor.name} from {entry.value!r}, outside of "
                    "its directory; external data must lie beside the file"
                )


def convert(graph: ServingGraph, opset: int) -> Any:
    """Convert the serving function to an onnx.ModelProto, without the passes of `onnx_passes`.

    Raises:
        ExportError: tf2onnx has no rule for one of the operations.
    """
    import tf2onnx

    from keras_cnns_export.onnx_passes import operations  # noqa: F401  registers its rules

    with _errors_of("tf2onnx") as errors:
        signature = graph.function.input_signature
        model, _ = tf2onnx.convert.from_function(graph.function, signature, opset=opset)
    if errors:
        raise ExportError(
            f"the network cannot be converted to ONNX with opset {opset}: {'; '.join(errors)}"
        )
    return model


@contextlib.contextmanager
def _errors_of(logger: str) -> Iterator[list[str]]:
    """Collect the errors that a library logs instead of raising them, and mute its other logs."""
    errors: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    source, handler = logging.getLogger(logger), Collect(logging.ERROR)
    level, propagate = source.level, source.propagate
    source.addHandler(handler)
    source.setLevel(logging.ERROR)
    source.propagate = False
    try:
        yield errors
    finally:
        source.removeHandler(handler)
        source.setLevel(level)
        source.propagate = propagate
