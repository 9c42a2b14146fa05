"""The golden samples of a version, which its server runs when it loads the version."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns_export import cli, export
from keras_cnns_export.contract import Golden
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.golden import GoldenSamples
from keras_cnns_serve.engines.choice import EngineOptions, load_engine
from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.files import read_version


def entry(version: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((version / "model.json").read_text(encoding="utf-8"))
    assert "golden.npy" in content["files"]
    return dict(content["golden"])


def test_they_are_images_of_the_split_with_the_probabilities_of_keras(
    all_formats: Path, trained: Any
) -> None:
    model, images, _ = trained
    rows = np.load(all_formats / "golden.npy", allow_pickle=False)
    found = entry(all_formats)
    assert (found["path"], found["images"]) == ("golden.npy", len(rows))
    assert 4 <= len(rows) <= 8
    assert (rows["image"].dtype, rows["probabilities"].dtype) == (np.uint8, np.float32)
    split = {image.tobytes() for image in images[256:]}
    assert {image.tobytes() for image in rows["image"]} <= split
    expected = model.predict(rows["image"].astype("float32"), verbose=0)
    np.testing.assert_allclose(rows["probabilities"], expected, rtol=0, atol=1e-5)
    assert len(set(expected.argmax(axis=1).tolist())) == 5
    assert found["largest_difference"].keys() == entry_formats(all_formats)
    for name, largest in found["largest_difference"].items():
        given = FORMATS[name].load(all_formats)(rows["image"])["probabilities"]
        difference = np.abs(given - rows["probabilities"]).max()
        assert difference == pytest.approx(largest, rel=0.1, abs=1e-5)


def entry_formats(version: Path) -> set[str]:
    return set(json.loads((version / "model.json").read_text(encoding="utf-8"))["formats"])


def test_the_same_model_has_the_same_samples(
    tmp_path: Path, tiny: Any, labels: tuple[str, ...]
) -> None:
    to = tmp_path / "bare"
    versions = [export(tiny, to, labels=labels, formats=("onnx",)) for _ in range(2)]
    first, second = ((version / "golden.npy").read_bytes() for version in versions)
    assert first == second
    assert entry(versions[0]) == entry(versions[1])


def test_they_can_be_left_out(finished_run: Path, tmp_path: Path) -> None:
    to = tmp_path / "digits"
    assert cli.main([str(finished_run), "--to", str(to), "--formats", "onnx", "--no-golden"]) == 0
    content = json.loads((to / "1" / "model.json").read_text(encoding="utf-8"))
    assert content["golden"] is None
    assert sorted(path.name for path in (to / "1").iterdir()) == [
        "labels.txt",
        "model.json",
        "model.onnx",
    ]


SHAPE = (2, 2, 1)


def chosen(tmp_path: Path, expected: Any, given: Any, shape: tuple[int, int, int] = SHAPE) -> Any:
    """Return the entry and the indices of the chosen images; an image's pixels are its index."""
    expected, given = np.array(expected, np.float32), np.array(given, np.float32)
    images = np.zeros((len(expected), *shape), np.uint8)
    images += np.arange(len(expected), dtype=np.uint8)[:, None, None, None]
    samples = GoldenSamples(shape, expected.shape[1])
    half = len(images) // 2
    for part in (slice(half), slice(half, None)):
        samples.add(images[part], expected[part], {"it": given[part]})
    result = samples.write(tmp_path)
    return result, np.load(tmp_path / "golden.npy")["image"][:, 0, 0, 0].tolist()


def test_each_class_comes_first_and_moderately_sure_answers_precede_others(tmp_path: Path) -> None:
    expected = [[0.99, 0.01], [0.8, 0.2], [0.76, 0.24], [0.05, 0.95], [0.3, 0.7], [0.51, 0.49]]
    given = np.add(expected, [0.01, -0.01])  # 4 times this is more than the last margin
    result, indices = chosen(tmp_path, expected, given)
    assert indices == [2, 4, 1, 3, 0, 5]
    assert (result.path, result.images) == ("golden.npy", 6)
    assert result.largest_difference == {"it": pytest.approx(0.01, rel=1e-4)}


def test_images_on_which_a_format_errs_are_left_out_if_there_are_others(tmp_path: Path) -> None:
    expected = [[0.7, 0.3]] * 9
    given = [[0.3, 0.7], *[[0.7, 0.3]] * 8]
    result, indices = chosen(tmp_path, expected, given)
    assert indices == [1, 2, 3, 4, 5, 6, 7, 8]
    assert result == Golden("golden.npy", 8, {"it": 0.0})


@pytest.mark.parametrize(("side", "count"), [(8, 8), (224, 6), (299, 3), (700, 1)])
def test_the_file_has_at_most_a_mebibyte_or_a_single_image(
    tmp_path: Path, side: int, count: int
) -> None:
    answers = [[0.7, 0.3]] * 9
    result, _ = chosen(tmp_path, answers, answers, (side, side, 3))
    assert result.images == count
    assert (tmp_path / "golden.npy").stat().st_size <= max(2**20, side * side * 3 + 8) + 1000


def alter(version: Path, file: str, change: Any) -> None:
    """Change a file and its checksum in model.json, as a wrong export would write both."""
    content = change((version / file).read_bytes())
    (version / file).write_bytes(content)
    document = json.loads((version / "model.json").read_text(encoding="utf-8"))
    checksum = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    document["files"][file] = checksum
    for name, each in document["formats"].items():
        each["milliseconds"] = {"onnx_int8": 1, "onnx": 2}.get(name, 3)
    (version / "model.json").write_text(json.dumps(document), encoding="utf-8")


def halve_weights(content: bytes) -> bytes:
    """Halve the int8 weights of every convolution."""
    import onnx

    model = onnx.load_from_string(content)
    for each in model.graph.initializer:
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 4:
            weights = onnx.numpy_helper.to_array(each) // 2
            each.CopyFrom(onnx.numpy_helper.from_array(weights, each.name))
    return bytes(model.SerializeToString())


@pytest.fixture
def copy(all_formats: Path, tmp_path: Path) -> Path:
    return shutil.copytree(all_formats, tmp_path / "trained" / "1")


def test_the_server_proves_the_int8_file_and_rejects_altered_weights(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alter(copy, "model.int8.onnx", lambda content: content)
    options = EngineOptions("onnxruntime", cores=2)
    assert load_engine(read_version("trained", 1, copy), options).format.name == "onnx_int8"
    assert caplog.messages == []
    alter(copy, "model.int8.onnx", halve_weights)
    with caplog.at_level(logging.WARNING):
        loaded = load_engine(read_version("trained", 1, copy), options)
    assert loaded.format.name == "onnx"
    assert loaded.notice.startswith("model.int8.onnx disagrees with the original model on ")
    assert caplog.messages == [f"trained/1: {loaded.notice}"]


def test_the_server_refuses_a_version_whose_expected_numbers_are_false(copy: Path) -> None:
    (size,) = np.load(copy / "golden.npy").dtype["probabilities"].shape

    def roll(content: bytes) -> bytes:
        rows = np.load(copy / "golden.npy")
        rows["probabilities"] = np.roll(rows["probabilities"], size // 2, axis=1)
        np.save(copy / "golden.npy", rows)
        return (copy / "golden.npy").read_bytes()

    alter(copy, "golden.npy", roll)
    options = EngineOptions("onnxruntime", cores=2)
    message = (
        r"^no format for --engine onnxruntime that is accurate according to model.json "
        r"reproduces the probabilities of the golden samples on this machine \(model\.int8\.onnx "
        r"disagrees with .*; model\.onnx disagrees with "
    )
    with pytest.raises(VersionRefusedError, match=message):
        load_engine(read_version("trained", 1, copy), options)
