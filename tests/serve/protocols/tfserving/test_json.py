import json
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from keras_cnns_serve.core.json_text import dumps, loads
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.protocols.tfserving.json import (
    format_predictions,
    parse_examples_request,
    parse_predict_request,
)
from keras_cnns_serve.repository.manifest import Manifest, read_manifest


@pytest.fixture(scope="module")
def manifest(repository: Path) -> Manifest:
    return read_manifest(repository / "grey" / "1" / "model.json")


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
def test_both_forms_with_and_without_the_inputs_name(
    manifest: Manifest, body: Any, form: str
) -> None:
    request = parse_predict_request(json.dumps(body).encode(), manifest)
    assert request.format == form
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
        (b'{"instances": [{"image": 1}]}', "instances[0] has the keys ['image']; each must be"),
        (b'{"instances": [{"b64": "aGk="}]}', "send an encoded image to :classify-image"),
        (b'{"instances": [{"images": 1}, [2]]}', "instances[1] is not an object"),
        (b'{"instances": [[1, 2], [3]]}', "images is ragged"),
        (b'{"inputs": {"images": [[1], 2]}}', "images is ragged"),
        (b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}", "nested more than 8 deep"),
        (b'{"instances": [[true, 3]]}', "not true or false"),
        (b'{"instances": [[null, {}]]}', "not an object, null"),
        (
            b'{"signature_name": "other", "instances": [1]}',
            'Serving signature name: "other" not found in signature def; there are serving_default',
        ),
        (b'{"signature_name": [1], "instances": [1]}', "'signature_name' key must be a string"),
    ],
)
def test_bad_requests_say_what_is_right(manifest: Manifest, body: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_predict_request(body, manifest)
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


@pytest.mark.parametrize(("value", "wanted"), [(2.5, b"2.5"), (np.nan, b"NaN")])
def test_arrays_of_any_layout(value: float, wanted: bytes) -> None:
    columns = np.array([[1, value], [3, 4]], np.float32).T
    assert dumps({"p": columns}) == b'{"p":[[1.0,3.0],[' + wanted + b",4.0]]}"


def test_one_long_string_does_not_make_every_element_long(manifest: Manifest) -> None:
    """NumPy would make 200 strings of a million characters: 800 MB out of a body of 1 MB."""
    rows = ["x" * 10**6, *["y"] * 199]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="not a string"):
            parse_predict_request(dumps({"instances": rows}), manifest)
        assert tracemalloc.get_traced_memory()[1] < 100 * 10**6
    finally:
        tracemalloc.stop()


A64, B64 = {"b64": "/+8="}, {"b64": "aGk="}  # ff ef, hi


@pytest.mark.parametrize(
    ("body", "contents"),
    [
        ({"instances": [A64, B64]}, [b"\xff\xef", b"hi"]),
        ({"instances": [{"image_bytes": A64}]}, [b"\xff\xef"]),
        ({"instances": ["hi"]}, [b"hi"]),
        ({"inputs": A64}, [b"\xff\xef"]),
        ({"inputs": [A64, B64]}, [b"\xff\xef", b"hi"]),
        ({"inputs": {"image_bytes": [B64]}}, [b"hi"]),
        ({"instances": [{"b64": "_-8"}]}, [b"\xff\xef"]),  # the URL's alphabet, no padding
    ],
)
def test_bytes_come_as_base64(manifest: Manifest, body: Any, contents: list[bytes]) -> None:
    document = json.dumps({"signature_name": "serving_bytes", **body}).encode()
    request = parse_predict_request(document, manifest)
    assert request.contents == contents
    assert request.inputs == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": [{"b64": "%"}]}, "image_bytes is not base64"),
        ({"instances": [{"b64": "aGk=", "x": 1}]}, "instances[0] has the keys ['b64', 'x']"),
        ({"instances": [{"b64": 7}]}, "instances[0] has the keys ['b64']"),
        ({"instances": [{"image_bytes": 7}]}, "must be encoded images as"),
        ({"inputs": {"images": [B64]}}, "the only input must be image_bytes, not images"),
        ({"inputs": 7}, "not int"),
    ],
)
def test_what_is_no_base64_is_refused(manifest: Manifest, body: Any, message: str) -> None:
    document = json.dumps({"signature_name": "serving_bytes", **body}).encode()
    with pytest.raises(InvalidInputError) as refused:
        parse_predict_request(document, manifest)
    assert message in str(refused.value)


def test_outputs_that_are_bytes_are_written_as_base64() -> None:
    raw = np.array([[b"\xff\xef"], [b"hi"]], object)
    assert format_predictions({"raw_bytes": raw}, "row") == (
        b'{"predictions":[[{"b64":"/+8="}],[{"b64":"aGk="}]]}'
    )
    assert format_predictions({"text": np.array(["hi"])}, "columnar") == b'{"outputs":["hi"]}'


@pytest.mark.parametrize(
    ("body", "contents"),
    [
        ({"examples": [{"image/encoded": A64}, {"image/encoded": [B64]}]}, [b"\xff\xef", b"hi"]),
        ({"context": {"image/encoded": A64}, "examples": [{}]}, [b"\xff\xef"]),
    ],
)
def test_examples_carry_an_encoded_image(body: Any, contents: list[bytes]) -> None:
    assert parse_examples_request(json.dumps(body).encode()).contents == contents


def test_the_image_of_the_context_is_decoded_once() -> None:
    """A copy for each example would make 800 MB out of a body of 1 MB."""
    context = {"image/encoded": {"b64": "A" * 2**20}} | {f"x{i}": 1 for i in range(10_000)}
    body = json.dumps({"context": context, "examples": [{}] * 1_024}).encode()
    tracemalloc.start()
    try:
        contents = parse_examples_request(body).contents
        assert tracemalloc.get_traced_memory()[1] < 100 * 10**6
    finally:
        tracemalloc.stop()
    assert contents == [bytes(3 * 2**18)] * 1_024


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "'examples' must be a list of at least one object"),
        ({"examples": []}, "'examples' must be a list of at least one object"),
        ({"examples": [1]}, "examples[0] must be an object of features"),
        ({"examples": [{"x": 1}]}, "examples[0] must have the feature 'image/encoded'"),
        ({"examples": [{}], "context": 1}, "'context' must be an object"),
        ({"examples": [{"image/encoded": [1, 2]}]}, "must be encoded images"),
    ],
)
def test_bad_examples_say_what_is_right(body: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_examples_request(json.dumps(body).encode())
    assert message in str(refused.value)
