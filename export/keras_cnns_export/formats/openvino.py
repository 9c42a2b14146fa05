"""OpenVINO IR: one file for float32 and bfloat16, written by Keras, and one for int8 from NNCF.

On a CPU with bfloat16 instructions, OpenVINO computes a float32 file in bfloat16 by default. Set
INFERENCE_PRECISION_HINT to the precision that model.json states, as `load` does.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns_export.errors import ExportError, check_names

if TYPE_CHECKING:
    from keras_cnns_export.batches import Array, Predict
    from keras_cnns_export.graph import Source

PATH = "openvino/model.xml"
_INT8_PATH = "openvino/model.int8.xml"
FILES = (PATH, "openvino/model.bin")
INT8_FILES = (_INT8_PATH, "openvino/model.int8.bin")
# The range of an activation is the mean of its ranges for single images. For one image, the range
# covers all values ("minmax"), or extends from the 0.01 % quantile to the 99.99 % quantile
# ("percentile").
_METHODS = {"minmax": "MEAN_MINMAX", "percentile": "MEAN_QUANTILE"}
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write `version`/openvino/model.xml and .bin in float32; return the entry in model.json."""
    from keras_cnns_export.graph import export_by_keras

    (version / PATH).parent.mkdir(exist_ok=True)
    with _versions_stated():
        export_by_keras(source.graph, version / PATH, "openvino")
    return {"path": PATH}


@contextlib.contextmanager
def _versions_stated() -> Iterator[None]:
    """Give OpenVINO's converter the versions of Python and TensorFlow within the block.

    To determine these versions, the converter of OpenVINO 2026.4 imports TensorFlow by one `exec`
    and deletes the imported name by a second `exec`. Since Python 3.13, a name that `exec` defines
    in a function is lost after the call (PEP 667). Therefore, the second `exec` raises NameError.
    """
    if sys.version_info < (3, 13):
        yield
        return
    import tensorflow as tf
    from openvino.frontend.tensorflow import utils

    original = utils.get_environment_setup
    versions = {"python_version": platform.python_version(), "tensorflow": tf.__version__}
    utils.get_environment_setup = lambda framework: versions
    try:
        yield
    finally:
        utils.get_environment_setup = original


@contextlib.contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Restore this thread's alternate signal stack at the end of the block.

    On Linux, each `openvino.Core` with the CPU plugin sets a signal stack, and later frees it. If
    several Cores end in the order in which they began, as NNCF's do, OpenVINO 2026.4 leaves the
    thread with a stack that was freed. The next Ctrl-C would be a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(64)  # at least the size of the structure stack_t
    libc.sigaltstack(None, before)
    try:
        yield
    finally:
        libc.sigaltstack(before, None)


def write_bfloat16(source: Source, version: Path) -> dict[str, Any]:
    """Return model.json's entry for running the float32 file in bfloat16, without writing a file.

    Raises:
        ExportError: this CPU has no bfloat16 instructions, so the format cannot be compared.
    """
    if not has_bfloat16():
        raise ExportError(
            "openvino_bfloat16 cannot be compared with Keras here: this CPU has no bfloat16 "
            "instructions; export on a CPU that has them, or leave this format out"
        )
    return {"path": PATH}


@_same_signal_stack()
def has_bfloat16() -> bool:
    """Return whether OpenVINO finds bfloat16 instructions on this CPU."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@_same_signal_stack()
def write_int8(source: Source, version: Path) -> dict[str, Any]:
    """Write `version`/openvino/model.int8.xml and .bin with NNCF; return the entry in model.json.

    NNCF's preset MIXED quantizes activations asymmetrically. NNCF also corrects the biases for the
    mean error of the quantization. The weights use half of the range of int8: on CPUs without VNNI
    instructions, sums of products of full-range weights overflow (nncf's OverflowFix).

    Raises:
        ExportError: the method of calibration is unknown.
    """
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # nncf.set_log_level would change the level of every log handler of the process.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    method = source.quantization.method
    check_names("method of calibration", [method], _METHODS)
    from keras_cnns_export.batches import first

    images, _ = first(source.training_batches(), source.quantization.samples)
    (name,) = (spec.name for spec in source.graph.inputs)
    model = openvino.Core().read_model(version / PATH)
    one_by_one = nncf.Dataset([{name: images[index : index + 1]} for index in range(len(images))])
    estimator = getattr(RangeEstimatorParametersSet, _METHODS[method])
    with contextlib.redirect_stdout(io.StringIO()):  # hides progress bars
        quantized = nncf.quantize(
            model,
            one_by_one,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=estimator,
                overflow_fix=nncf.OverflowFix.ENABLE,
            ),
        )
    openvino.save_model(quantized, version / _INT8_PATH, compress_to_fp16=False)
    calibration = {"method": method, "samples": len(images)}
    return {"path": _INT8_PATH, "calibration": calibration}


@_same_signal_stack()
def load(version: Path, path: str = PATH, precision: str = "float32") -> Predict:
    """Load a file in OpenVINO on the CPU: images uint8 [N, H, W, C] -> named outputs.

    Args:
        version: the version's directory.
        path: the .xml file, relative to the version's directory.
        precision: the precision of the floating-point operations, "float32" or "bfloat16".
    """
    import openvino

    config = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(version / path, "CPU", config)
    request = model.create_infer_request()
    names = [output.any_name for output in model.outputs]

    def predict(images: Array) -> Mapping[str, Array]:
        results = request.infer([images])
        return {name: results[name].copy() for name in names}

    return predict


def load_bfloat16(version: Path) -> Predict:
    """Load the float32 file so that OpenVINO computes it in bfloat16."""
    return load(version, PATH, "bfloat16")


def load_int8(version: Path) -> Predict:
    """Load the int8 file; operations that are not quantized are computed in float32."""
    return load(version, _INT8_PATH)
