import errno
import os
import re

import pytest
import tensorflow as tf

from keras_cnns_export.errors import (
    DISK_ERRORS,
    ExportError,
    FormatError,
    check_names,
    failures_of,
)
from keras_cnns_export.formats import saved_model

KNOWN = ("saved_model", "onnx")


def test_known_names_pass() -> None:
    check_names("format", ["onnx"], KNOWN)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["onnx", "tflite"], "unknown format 'tflite'; there are: saved_model, onnx"),
        ([], "no format was given; there are: saved_model, onnx"),
        ("onnx", "formats must be a list of names, as ('onnx',), not one string"),
    ],
)
def test_other_names_are_refused_with_those_that_exist(names: list[str], message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        check_names("format", names, KNOWN)


def failing(error: Exception) -> None:
    with failures_of("onnx"):
        raise error


@pytest.mark.parametrize("number", sorted(DISK_ERRORS))
def test_what_the_disk_refuses_is_the_fault_of_no_format(number: int) -> None:
    error = OSError(number, os.strerror(number))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        failing(error)
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError("libopenvino.so.2620: cannot open shared object file"),
            "onnx: OSError: libopenvino.so.2620: cannot open shared object file",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file"), "onnx: FileNotFoundError: "),
        (ExportError("opset 3 is too old"), "onnx: opset 3 is too old"),
    ],
)
def test_every_other_exception_names_its_format(error: Exception, message: str) -> None:
    with pytest.raises(FormatError, match=re.escape(message)) as caught:
        failing(error)
    assert caught.value.format == "onnx"
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (
            tf.errors.ResourceExhaustedError(
                None, None, "m/variables; No space left on device [Op:SaveV2]"
            ),
            errno.ENOSPC,
        ),
        (tf.errors.PermissionDeniedError(None, None, "m/1; Permission denied"), errno.EACCES),
        (
            tf.errors.FailedPreconditionError(None, None, "m/1; Read-only file system"),
            errno.EROFS,
        ),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), None),
        (tf.errors.UnimplementedError(None, None, "no such kernel"), None),
    ],
)
def test_only_what_the_disk_refuses_tensorflow_is_an_os_error(
    error: tf.errors.OpError, number: int | None
) -> None:
    expected = type(error) if number is None else OSError
    with pytest.raises(expected) as caught, saved_model.disk_errors():
        raise error
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.strerror) == (number, os.strerror(number or 0))
        assert caught.value.__cause__ is error
