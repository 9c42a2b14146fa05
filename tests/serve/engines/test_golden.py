"""A version is served by a format that gives the original model's answers on this machine."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.prediction import Target
from keras_cnns_serve.engines.base import Names, Outputs
from keras_cnns_serve.engines.choice import EngineOptions, load_engine
from keras_cnns_serve.engines.golden import (
    DisagreementError,
    GoldenSamples,
    read_golden,
    warm_up_and_check,
)
from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.files import read_version
from keras_cnns_serve.repository.manifest import Format, Manifest, read_manifest
from tests.serve.conftest import Client, graph, grey, publish, write_version

FORMATS = {
    "onnx": {"path": "model.onnx", "milliseconds": 3.0},
    "onnx_int8": {"path": "model.int8.onnx", "milliseconds": 1.0},
}
PARITY = {"formats": {name: {"top_1_agreement": 1.0} for name in FORMATS}}
NEXT_FORMAT = "the next format that is accurate according to model.json"
LEVELS = (10, 60, 130, 200)
DTYPE = np.dtype([("image", "u1", (8, 8, 1)), ("probabilities", "<f4", (10,))])


def samples(levels: tuple[int, ...] = LEVELS) -> np.ndarray[Any, Any]:
    """Grey images with the probabilities that the graph of conftest.py defines."""
    rows = np.zeros(len(levels), DTYPE)
    rows["image"] = np.array(levels, np.uint8)[:, None, None, None]
    classes = np.arange(10)
    logits = 2 * (np.array(levels)[:, None] / 25.6 - 0.5) * classes - classes**2
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows["probabilities"] = powers / powers.sum(axis=1, keepdims=True)
    return rows


def npy(rows: np.ndarray[Any, Any], path: Path) -> bytes:
    np.save(path, rows)
    return path.read_bytes()


def altered() -> bytes:
    """The graph with other weights: an image's level counts half."""
    model = onnx.load_from_string(graph())
    (scale,) = (each for each in model.graph.initializer if each.name == "scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array([0.5 / 25.6], np.float32), "scale"))
    return bytes(model.SerializeToString())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Publish grey/1 with golden samples, as float32 and as a file that claims to be its int8."""

    def publish_version(
        int8: bytes | None = None,
        golden: bytes | None = None,
        difference: Mapping[str, float] | None = None,
        **changes: Any,
    ) -> Path:
        files = {
            "model.int8.onnx": int8 or graph(),
            "golden.npy": golden or npy(samples(), tmp_path / "golden.npy"),
        }
        entry = {"path": "golden.npy", "images": 4, "largest_difference": difference or {}}
        settings = {"formats": FORMATS, "parity": PARITY, "golden": entry} | changes
        return publish(tmp_path / "models" / "grey" / "1", files, **settings)

    return publish_version


def load(version: Path, counter: Any = None, **options: Any) -> Any:
    return load_engine(read_version("grey", 1, version), EngineOptions(**options), counter)


def test_a_format_that_agrees_is_used(write: Callable[..., Path]) -> None:
    loaded = load(write(), cores=2)
    assert (loaded.format.name, loaded.notice) == ("onnx_int8", "")
    assert loaded.reason.startswith("the fastest format that is accurate according to model.json; ")


MESSAGE = (
    r"model\.int8\.onnx disagrees with the original model on golden sample 0: a probability "
    r"differs by 0\.\d+, and at most 0\.02 is allowed"
)


def test_altered_weights_fall_back_to_the_next_proven_format(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    counter: Counter[tuple[str, int, str]] = Counter()
    with caplog.at_level(logging.WARNING):
        loaded = load(write(altered()), counter)
    assert loaded.format.name == "onnx"
    assert loaded.reason.startswith(f"{NEXT_FORMAT}, because {loaded.notice}; ")
    assert [record.getMessage() for record in caplog.records] == [f"grey/1: {loaded.notice}"]
    assert counter == {("grey", 1, "model.int8.onnx"): 1}


def test_status_metadata_and_metrics_have_the_reason(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write(altered())
    dataplane = Dataplane.open(tmp_path / "models")
    client = Client(create_app(dataplane))
    try:
        (status,) = client.get("/v1/models/grey").json()["model_version_status"]
        assert (status["state"], status["status"]["error_code"]) == ("AVAILABLE", "OK")
        notice = status["status"]["error_message"]
        assert notice.startswith("model.int8.onnx disagrees with the original model on ")
        engine = client.get("/v1/models/grey/metadata").json()["metadata"]["engine"]
        assert engine["file"] == "model.onnx"
        assert engine["reason"].startswith(f"{NEXT_FORMAT}, because {notice}; ")
        (entry,) = client.post("/v2/repository/index").json()
        assert (entry["state"], entry["reason"]) == ("READY", notice)
        counter = (
            'keras_cnns_serve_golden_disagreements_total{file="model.int8.onnx",model="grey",'
            'version="1"} 1.0'
        )
        assert counter in client.get("/metrics").text
        answer = client.post("/v1/models/grey:classify-image", content=grey(60))
        assert answer.json()["predictions"][0]["labels"][0]["label"] == "grey-2"
        assert dataplane.ready(Target("grey"))
    finally:
        dataplane.close(5)


def test_only_requested_formats_replace_a_format(write: Callable[..., Path]) -> None:
    version = write(altered())
    message = (
        rf"^no format for --precision int8 that is accurate according to model.json reproduces the "
        rf"probabilities of the golden samples on this machine \({MESSAGE}\); "
        r"allow other formats, or export the version again$"
    )
    with pytest.raises(VersionRefusedError, match=message):
        load(version, precision="int8")
    assert load(version, precision="float32").format.name == "onnx"
    assert load(version, engine="onnxruntime").format.name == "onnx"


def test_a_format_that_is_not_proven_replaces_none(write: Callable[..., Path]) -> None:
    proven = {"formats": {"onnx_int8": {"top_1_agreement": 1.0}}}
    with pytest.raises(VersionRefusedError, match=r"^no format that is accurate according"):
        load(write(altered(), parity=proven))


def test_golden_samples_that_are_false_refuse_the_version(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    rows = samples()
    rows["probabilities"] = np.roll(rows["probabilities"], 1, axis=1)
    write(golden=npy(rows, tmp_path / "false.npy"))
    write_version(tmp_path / "models" / "other" / "1")
    dataplane = Dataplane.open(tmp_path / "models")
    try:
        assert list(dataplane.manager.models) == ["other"]
        (status,) = dataplane.status(Target("grey"))
        assert status.message.startswith(
            "no format that is accurate according to model.json reproduces the probabilities of "
            "the golden samples on this machine ("
            "model.int8.onnx disagrees with the original model on golden sample 0: "
        )
        assert "; model.onnx disagrees with the original model on golden " in status.message
        assert sorted(dataplane.disagreements) == [
            ("grey", 1, "model.int8.onnx"),
            ("grey", 1, "model.onnx"),
        ]
    finally:
        dataplane.close(5)


def test_the_difference_at_export_is_the_measure(write: Callable[..., Path]) -> None:
    """Twice the difference in model.json is allowed."""
    assert load(write(altered(), difference={"onnx_int8": 0.5})).format.name == "onnx_int8"


class Clock:
    """A clock that only runs of engines move on."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("keras_cnns_serve.engines.golden.time", clock)
    return clock


class Fake:
    """An engine with the given answers [N, K] for the golden samples, whose runs are counted."""

    def __init__(self, answers: Any, clock: Clock, seconds: float = 0.0) -> None:
        self.answers = np.array(answers, np.float32)
        self.clock = clock
        self.seconds = seconds
        self.runs = 0

    def run(self, images: Any, names: Names = None) -> Outputs:
        index = int(images[0, 0, 0, 0])
        self.runs += 1
        self.clock.now += self.seconds
        if index >= len(self.answers):
            raise RuntimeError("no such\nkernel")
        return {"probabilities": self.answers[index : index + 1]}


def check(engine: Fake, expected: Any, precision: str = "float32", difference: float = 0.0) -> None:
    probabilities = np.array(expected, np.float32)
    images = np.zeros((len(probabilities), 8, 8, 1), np.uint8)
    images += np.arange(len(probabilities), dtype=np.uint8)[:, None, None, None]
    used = Format("onnx", "folder/model.onnx", "onnxruntime", precision)
    golden: Any = type("Golden", (), {"differences": {"onnx": difference}})
    output: Any = type("Output", (), {"name": "probabilities", "shape": (None, None)})
    manifest: Any = type("Manifest", (), {"golden": golden, "outputs": (output,)})
    warm_up_and_check(engine, manifest, used, GoldenSamples(images, probabilities))


@pytest.mark.parametrize(
    ("expected", "given", "precision", "difference", "problem"),
    [
        ([[0.9, 0.1]], [[0.9005, 0.0995]], "float32", 0.0, None),  # the noise of float32
        ([[0.9, 0.1]], [[0.89, 0.11]], "float32", 0.0, r"by 0\.01, and at most 0\.001 is"),
        ([[0.9, 0.1]], [[0.89, 0.11]], "int8", 0.0, None),
        ([[0.9, 0.1]], [[0.85, 0.15]], "bfloat16", 0.0, r"by 0\.05, and at most 0\.02 is"),
        ([[0.9, 0.1]], [[0.71, 0.29]], "int8", 0.1, None),
        ([[0.9, 0.1]], [[0.69, 0.31]], "int8", 0.1, r"at most 0\.2 is allowed"),
        (
            [[0.65, 0.35]],
            [[0.49, 0.51]],
            "int8",
            0.1,
            r"is 1 \(0\.51\); .* 0\.65 to class 0, and 0",
        ),
        ([[0.55, 0.45]], [[0.45, 0.55]], "int8", 0.1, None),  # a tie for this format
        ([[0.9, 0.1]], [[np.nan, 0.1]], "int8", 0.1, "differs by nan"),
        ([[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.8, 0.2]], "int8", 0.0, "golden sample 1: "),
        ([[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1]], "int8", 0.0, "not run on .* 1: no such kernel"),
    ],
)
def test_answers_are_compared_by_difference_and_by_class(
    clock: Clock,
    expected: Any,
    given: Any,
    precision: str,
    difference: float,
    problem: str | None,
) -> None:
    engine = Fake(given, clock)
    if problem is None:
        check(engine, expected, precision, difference)
    else:
        with pytest.raises(DisagreementError, match=rf"^model\.onnx .*{problem}"):
            check(engine, expected, precision, difference)


@pytest.mark.parametrize(("seconds", "runs"), [(0.001, 8), (0.02, 3), (0.06, 1)])
def test_the_check_runs_the_image_of_the_warm_up_and_others_for_50_ms(
    clock: Clock, seconds: float, runs: int
) -> None:
    answers = [[0.9, 0.1]] * 8
    engine = Fake(answers, clock, seconds)
    check(engine, answers)
    assert engine.runs == runs


def test_both_engines_of_a_version_are_checked(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []

    def record(engine: Any, manifest: Manifest, *arguments: Any) -> None:
        checked.append(engine)
        warm_up_and_check(engine, manifest, *arguments)

    monkeypatch.setattr("keras_cnns_serve.engines.choice.warm_up_and_check", record)
    monkeypatch.setattr("keras_cnns_serve.engines.threads._SHORT", 0.0)
    monkeypatch.setattr("keras_cnns_serve.engines.threads._choices", {})
    load(write(), cores=2)
    assert len(checked) == 2


def test_a_version_without_golden_samples_is_served_as_before(tmp_path: Path) -> None:
    files = {"model.int8.onnx": altered()}
    version = publish(tmp_path / "grey" / "1", files, formats=FORMATS, parity=PARITY)
    assert read_manifest(version / "model.json").golden is None
    assert read_golden(read_version("grey", 1, version)) is None
    assert load(version).format.name == "onnx_int8"


def test_samples_that_are_missing_or_tampered_with_are_refused(write: Callable[..., Path]) -> None:
    version = write()
    file = version / "golden.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\0")
    with pytest.raises(VersionRefusedError, match=r"golden\.npy does not match its checksum"):
        read_version("grey", 1, version)
    file.unlink()
    with pytest.raises(VersionRefusedError, match=r"golden\.npy is missing"):
        read_version("grey", 1, version)


def _rows(**changes: Any) -> np.ndarray[Any, Any]:
    fields = {"image": ("u1", (8, 8, 1)), "probabilities": ("<f4", (10,))} | changes
    return np.zeros(2, [(name, *kind) for name, kind in fields.items()])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            _rows(image=("u1", (8, 9, 1))),
            r"an array of 1 to 8 samples .*uint8 \[8, 8, 1\]",
        ),
        (_rows(probabilities=("<f4", (11,))), r"probabilities \(float32 \[10\]"),
        (np.zeros(0, DTYPE), "an array of 1 to 8 samples"),
        (np.zeros(9, DTYPE), "an array of 1 to 8 samples"),
        (np.zeros((2, 2), DTYPE), "an array of 1 to 8 samples"),
        (np.array([{}], object), "golden.npy cannot be read: "),
    ],
)
def test_a_file_that_is_no_array_of_samples_is_refused(
    write: Callable[..., Path], tmp_path: Path, rows: Any, reason: str
) -> None:
    with pytest.raises(VersionRefusedError, match=reason):
        load(write(golden=npy(rows, tmp_path / "rows.npy")))


@pytest.mark.parametrize(
    "content", [b"\0", b"PK\x03\x04", b"\x93NUMPY\x01\0\x02\0{}", b"\x93NUMPY\x01\0\x01\0("]
)
def test_bytes_that_are_no_array_are_refused(write: Callable[..., Path], content: bytes) -> None:
    with pytest.raises(VersionRefusedError, match=r"^golden\.npy cannot be read: "):
        load(write(golden=content))


def test_a_large_file_is_refused_before_it_is_read(write: Callable[..., Path]) -> None:
    content = b"\x93NUMPY\x02\0" + (2**31).to_bytes(4, "little") + bytes(2**21)
    with pytest.raises(VersionRefusedError, match=r"has 2097164 bytes; at most 1114112 are all"):
        load(write(golden=content))


def test_a_header_cannot_make_the_server_allocate_memory(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    content = npy(samples(), tmp_path / "golden.npy").replace(b"(4,)", b"(8,)")
    with pytest.raises(VersionRefusedError, match=r"golden\.npy cannot be read: .*greater than"):
        load(write(golden=content))


@pytest.mark.parametrize(
    ("golden", "reason"),
    [
        ("golden.npy", "golden must be an object, not 'golden.npy'"),
        ({"largest_difference": {}}, "golden.path is missing"),
        ({"path": "golden.npy"}, "golden.largest_difference is missing"),
        ({"path": "../golden.npy", "largest_difference": {}}, "is not inside the version's"),
        (
            {"path": "other.npy", "largest_difference": {}},
            "'other.npy', which is not listed in files",
        ),
        ({"path": "golden.npy", "largest_difference": {"onnx": -1}}, "must be from 0 to 1, not -1"),
        ({"path": "golden.npy", "largest_difference": {"onnx": True}}, "from 0 to 1, not True"),
    ],
)
def test_a_wrong_entry_in_model_json_is_refused(
    write: Callable[..., Path], golden: Any, reason: str
) -> None:
    file = write() / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"golden": golden}))
    with pytest.raises(VersionRefusedError) as refused:
        read_manifest(file)
    assert reason in str(refused.value)
