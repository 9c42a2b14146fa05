import json
import tracemalloc
from typing import Any, Literal

import numpy as np
import pytest

from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.json_tensor import dumps, format_predictions, loads, parse_predict_request


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ({"instances": [[1, 2], [3, 4]]}, "row"),
        ({"instances": [{"images": [1, 2]}, {"images": [3, 4]}]}, "row"),
        ({"inputs": [[1, 2], [3, 4]]}, "columnar"),
        ({"inputs": {"images": [[1, 2], [3, 4]]}}, "columnar"),
        ({"signature_name": "serving_default", "inputs": [[1, 2], [3, 4]]}, "columnar"),
        ({"signature_name": "", "inputs": [[1, 2], [3, 4]]}, "columnar"),
    ],
)
def test_both_forms_with_and_without_the_inputs_name(body: Any, form: str) -> None:
    request = parse_predict_request(json.dumps(body).encode(), "images")
    assert request.form == form
    assert request.inputs["images"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error"),
        (b"{", "JSON Parse error"),
        (b"\xff\xd8\xff", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        (b"NaN" + b"[" * 100_000, "JSON Parse error"),
        (b"[NaN" * 100_000, "JSON Parse error"),
        (b"[1]", "must be a JSON object"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"instances": [1], "inputs": [1]}', "not both"),
        (b'{"instances": 1}', "must be a list of at least one image"),
        (b'{"instances": []}', "must be a list of at least one image"),
        (b'{"instances": [{"image": 1}]}', "instances[0] is the keys ['image']; each must be"),
        (b'{"instances": [{"b64": "aGk="}]}', "An encoded image goes to :classify-image"),
        (b'{"instances": [{"images": 1}, [2]]}', "instances[1] is no object"),
        (b'{"instances": [[1, 2], [3]]}', "images is ragged"),
        (b'{"inputs": {"images": [[1], 2]}}', "images is ragged"),
        (b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}", "nested deeper than 8"),
        (b'{"instances": [[true, 3]]}', "not true or false"),
        (b'{"instances": [[null, {}]]}', "not an object, null"),
        (
            b'{"signature_name": "other", "instances": [1]}',
            "must be 'serving_default', not 'other'",
        ),
        (b'{"signature_name": [1], "instances": [1]}', "must be 'serving_default', not [1]"),
    ],
)
def test_bad_requests_say_what_is_right(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_predict_request(body, "images")
    assert message in str(refused.value)


A = np.array([[0.1, 0.9], [0.5, 0.5]], np.float32)
B = np.array([[1], [2]], np.float32)


@pytest.mark.parametrize(
    ("outputs", "form", "answer"),
    [
        ({"a": A}, "row", {"predictions": [[0.1, 0.9], [0.5, 0.5]]}),
        ({"a": A}, "columnar", {"outputs": [[0.1, 0.9], [0.5, 0.5]]}),
        (
            {"a": A, "b": B},
            "row",
            {"predictions": [{"a": [0.1, 0.9], "b": [1.0]}, {"a": [0.5, 0.5], "b": [2.0]}]},
        ),
        (
            {"a": A, "b": B},
            "columnar",
            {"outputs": {"a": [[0.1, 0.9], [0.5, 0.5]], "b": [[1.0], [2.0]]}},
        ),
    ],
)
def test_one_output_is_bare_and_several_are_named(
    outputs: dict[str, Any], form: Literal["row", "columnar"], answer: Any
) -> None:
    assert json.loads(format_predictions(outputs, form)) == answer


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_json_lacks_is_read_and_written(text: str) -> None:
    value = float(text)
    array = np.array([1, value], np.float32)
    wanted = f'{{"a":[1.0,{text}]}}'.encode()
    for written in ({"a": array}, {"a": [np.float32(1), np.float32(value)]}, {"a": [1.0, value]}):
        assert dumps(written) == wanted
    np.testing.assert_array_equal(loads(wanted)["a"], array)


def test_float32_is_written_in_its_shortest_form() -> None:
    assert dumps([np.float32(0.1), np.array([0.1], np.float32)]) == b"[0.1,[0.1]]"


def test_one_long_string_does_not_make_every_element_long() -> None:
    """NumPy would make 200 strings of a million characters: 800 MB out of a body of 1 MB."""
    rows = ["x" * 10**6, *["y"] * 199]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="not a string"):
            parse_predict_request(dumps({"instances": rows}), "images")
        assert tracemalloc.get_traced_memory()[1] < 100 * 10**6
    finally:
        tracemalloc.stop()
