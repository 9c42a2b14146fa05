"""OpenVINO IR, by Keras' own export: one file for float32 and bfloat16, and NNCF's int8.

On a CPU that has it OpenVINO computes a float32 file in bfloat16 unless told otherwise: whoever
runs these files asks for the precision that model.json names, as `load` does.
"""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export.errors import ExportError, check_names
from keras_cnns_export.keras_export import export_by_keras
from keras_cnns_export.source import Source

if TYPE_CHECKING:
    from keras_cnns_export.graph import Array, Predict

PATH = "openvino/model.xml"
INT8_PATH = "openvino/model.int8.xml"
FILES = (PATH, "openvino/model.bin")
INT8_FILES = (INT8_PATH, "openvino/model.int8.bin")
PACKAGES = ("openvino",)
INT8_PACKAGES = ("openvino", "nncf")
# Ranges: each image's extremes, or what bounds 99.99 % of its values, averaged over the images.
METHODS = {"minmax": "MEAN_MINMAX", "percentile": "MEAN_QUANTILE"}
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write `version`/openvino/model.xml and .bin, float32; returns its entry in model.json."""
    (version / PATH).parent.mkdir(exist_ok=True)
    export_by_keras(source.graph, version / PATH, "openvino")
    return {"path": PATH}


def write_bfloat16(source: Source, version: Path) -> dict[str, Any]:
    """The entry of the float32 file run in bfloat16; nothing more is written.

    Raises:
        ExportError: this CPU cannot, so that nothing would be proven.
    """
    if not has_bfloat16():
        raise ExportError(
            "openvino_bfloat16 cannot be proven here: this CPU has no bfloat16 instructions; "
            "export on one that has them, or leave this format out"
        )
    return {"path": PATH}


def has_bfloat16() -> bool:
    """Whether OpenVINO finds bfloat16 instructions on this CPU."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def write_int8(source: Source, version: Path) -> dict[str, Any]:
    """Write `version`/openvino/model.int8.xml and .bin by NNCF; returns the entry in model.json.

    Activations are asymmetric ("mixed"), with biases corrected for the error of quantization.
    """
    import logging

    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    from keras_cnns_export.samples import first

    # Not nncf.set_log_level: it sets its handlers' level too, those that others put there as well.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    method = source.quantization.method
    check_names("method of calibration", [method], METHODS)
    images, _ = first(source.training_batches(), source.quantization.samples)
    (name,) = (spec.name for spec in source.graph.inputs)
    model = openvino.Core().read_model(version / PATH)
    one_by_one = nncf.Dataset([{name: images[index : index + 1]} for index in range(len(images))])
    estimator = getattr(RangeEstimatorParametersSet, METHODS[method])
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        quantized = nncf.quantize(
            model,
            one_by_one,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=estimator
            ),
        )
    openvino.save_model(quantized, version / INT8_PATH, compress_to_fp16=False)
    calibration = {"method": method, "samples": len(images)}
    return {"path": INT8_PATH, "calibration": calibration}


def load(version: Path, path: str = PATH, precision: str = "float32") -> "Predict":
    """A written file in OpenVINO on the CPU: images uint8 [N, H, W, C] -> named outputs.

    Args:
        version: its directory.
        path: of the .xml file, relative to it.
        precision: of what the file leaves in floating point: "float32" or "bfloat16".
    """
    import openvino

    config = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(version / path, "CPU", config)
    request = model.create_infer_request()
    names = [output.any_name for output in model.outputs]

    def predict(images: "Array") -> "Mapping[str, Array]":
        results = request.infer([images])
        return {name: results[name].copy() for name in names}

    return predict


def load_bfloat16(version: Path) -> "Predict":
    """The float32 file, computed in bfloat16."""
    return load(version, PATH, "bfloat16")


def load_int8(version: Path) -> "Predict":
    """The int8 file; what it leaves in floating point is computed in float32."""
    return load(version, INT8_PATH)
