import re

import pytest

from keras_cnns_export.errors import ExportError, check_names

KNOWN = ("saved_model", "onnx")


def test_known_names_pass() -> None:
    check_names("format", ["onnx"], KNOWN)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["onnx", "tflite"], "unknown format 'tflite'; there are: saved_model, onnx"),
        ([], "no format asked for; there are: saved_model, onnx"),
        ("onnx", "formats must be a list of names, as ('onnx',), not one string"),
    ],
)
def test_other_names_are_refused_with_those_that_exist(names: list[str], message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        check_names("format", names, KNOWN)
