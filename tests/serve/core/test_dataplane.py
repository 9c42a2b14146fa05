import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from keras_cnns_serve import errors
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.core.prediction import ScoredLabel, Target
from keras_cnns_serve.core.servable import Options
from keras_cnns_serve.engines.choice import EngineOptions
from keras_cnns_serve.repository.policy import All
from tests.serve.conftest import LABELS, OUTPUTS, graph, grey, write_version

IMAGE = np.full((1, 8, 8, 1), 130)


def classify(
    dataplane: Dataplane, contents: list[bytes], top_k: int = 5
) -> list[list[ScoredLabel]]:
    return asyncio.run(dataplane.classify_images(Target("grey"), contents, top_k))


def test_lists_the_models_that_answer(dataplane: Dataplane) -> None:
    models = {model.name: model for model in dataplane.models()}
    assert list(models) == ["fragile", "grey", "nan", "two"]
    assert models["grey"].versions == (1,)
    assert models["grey"].labels == tuple(LABELS)
    assert [output.name for output in models["two"].outputs] == ["probabilities", "logits"]


def test_what_runs_a_version_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for version in (1, 2):
        write_version(tmp_path / "grey" / str(version))
    options = Options(EngineOptions(threads=1, cores=2))
    with caplog.at_level(logging.INFO, "keras_cnns_serve"):
        dataplane = Dataplane.open(tmp_path, policy=All(), options=options)
    how = "model.onnx by onnxruntime, float32, 1 thread per image"
    why = "the only format; threads set by --threads"
    assert f"grey/2 is available: {how} ({why})" in caplog.messages
    info = {
        "file": "model.onnx",
        "engine": "onnxruntime",
        "precision": "float32",
        "threads": 1,
        "side_by_side": 2,
        "reason": why,
    }
    assert dataplane.engine_info(Target("grey", 1)) == info
    assert dataplane.models()[0].engine == info
    with pytest.raises(errors.ModelNotFoundError):
        dataplane.engine_info(Target("grey", 3))
    classify(dataplane, [grey(130)])
    served = dataplane.served()
    assert [servable.source.version for servable in served] == [1, 2]
    assert [servable.recorder.outcomes["OK"] for servable in served] == [0, 1]
    dataplane.close(5)


def test_the_status_of_a_refused_version_has_its_reason(dataplane: Dataplane) -> None:
    refused, good = dataplane.status(Target("grey"))
    assert (good.version, good.state, good.code, good.message) == (1, "AVAILABLE", "OK", "")
    assert refused.version == 2
    assert (refused.state, refused.code) == ("END", "FAILED_PRECONDITION")
    assert refused.message == "labels.txt does not match its checksum in model.json"
    assert dataplane.status(Target("grey", 2)) == [refused]


def test_the_highest_version_is_the_default(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        write_version(tmp_path / "grey" / str(version))
    dataplane = Dataplane.open(tmp_path, policy=All())
    assert dataplane.metadata(Target("grey")).version == 10
    assert dataplane.metadata(Target("grey", 2)).version == 2
    assert dataplane.models()[0].versions == (2, 9, 10)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int64, np.int8, np.uint64, np.float16, np.float32, np.float64]
)
def test_predict_takes_whole_numbers_of_any_width(dataplane: Dataplane, dtype: type) -> None:
    image: NDArray[Any] = np.full((2, 8, 8, 1), 100, dtype)
    outputs = asyncio.run(dataplane.predict(Target("two"), {"images": image})).outputs
    assert {name: output.shape for name, output in outputs.items()} == {
        "probabilities": (2, 10),
        "logits": (2, 10),
    }
    assert outputs["probabilities"].argmax(axis=1).tolist() == [3, 3]


def test_classify_gives_the_likeliest_labels_first(dataplane: Dataplane) -> None:
    images = [grey(level) for level in (0, 130, 255)]
    answers = classify(dataplane, images, top_k=3)
    assert [labels[0].label for labels in answers] == ["grey-0", "grey-5", "grey-9"]
    assert all(len(labels) == 3 for labels in answers)
    probabilities = predict(IMAGE)(dataplane).outputs["probabilities"][0]
    assert answers[1][0] == ScoredLabel("grey-5", float(probabilities[5]))
    assert len(classify(dataplane, images[:1], top_k=99)[0]) == 10


def test_an_image_is_resized_as_the_manifest_says(dataplane: Dataplane) -> None:
    (labels,) = classify(dataplane, [grey(200, (80, 60), "JPEG")])
    assert labels[0].label == "grey-7"


def predict(
    images: Any, name: str = "grey", version: int | None = None
) -> Callable[[Dataplane], Any]:
    return lambda dataplane: asyncio.run(
        dataplane.predict(Target(name, version), {"images": images})
    )


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (
            predict(IMAGE, "gray"),
            errors.ModelNotFoundError,
            "request: Latest(gray); the models are fra",
        ),
        (predict(IMAGE, version=3), errors.ModelNotFoundError, "Specific(grey, 3); it has 1"),
        (predict(IMAGE, version=2), errors.ModelUnavailableError, "grey/2 refused: labels.txt doe"),
        (
            lambda d: d.status(Target("gray")),
            errors.ModelNotFoundError,
            "any versions of model gray",
        ),
        (
            lambda d: d.status(Target("grey", 3)),
            errors.ModelNotFoundError,
            "version 3 of model grey; it",
        ),
        (lambda d: d.metadata(Target("grey", 2)), errors.ModelUnavailableError, "grey/2 refused"),
        (predict(IMAGE[0]), errors.InvalidInputError, "not of shape [8, 8, 1]; to send one"),
        (predict(IMAGE[..., 0]), errors.InvalidInputError, "[N, 8, 8, 1], not of shape [1, 8, 8]"),
        (predict(IMAGE[:, :4]), errors.InvalidInputError, "not of shape [1, 4, 8, 1]"),
        (predict(np.array(7)), errors.InvalidInputError, "not of shape []"),
        (predict(IMAGE[:0]), errors.InvalidInputError, "N must be at least 1"),
        (
            predict(IMAGE + 126),
            errors.InvalidInputError,
            "from 0 to 255, of shape [N, 8, 8, 1], not 256",
        ),
        (predict(IMAGE - 131), errors.InvalidInputError, "not -1"),
        (predict(IMAGE / 255), errors.InvalidInputError, "not 0.5098"),
        (predict(IMAGE / 130), errors.InvalidInputError, "not floats from 0 to 1"),
        (predict(IMAGE * 1.5 + 0.5), errors.InvalidInputError, "not 195.5; the graph itself norma"),
        (predict(IMAGE * 2.0), errors.InvalidInputError, "not 260.0; the graph itself normalises"),
        (predict(IMAGE * -1.0), errors.InvalidInputError, "not -130.0"),
        (predict(IMAGE * np.inf), errors.InvalidInputError, "not inf"),
        (predict(IMAGE * np.nan), errors.InvalidInputError, "not nan"),
        (predict(IMAGE > 0), errors.InvalidInputError, "not 'True'"),
        (predict(IMAGE.astype(str)), errors.InvalidInputError, "not '130'"),
        (predict(np.full(IMAGE.shape, None)), errors.InvalidInputError, "not 'None'"),
        (
            predict(np.full(IMAGE.shape, 10**30, object)),
            errors.InvalidInputError,
            "not '1000000000000",
        ),
        (
            lambda d: asyncio.run(d.predict(Target("grey"), {})),
            errors.InvalidInputError,
            "the only input must be images, not nothing",
        ),
        (
            lambda d: asyncio.run(d.predict(Target("grey"), {"images": IMAGE, "extra": IMAGE})),
            errors.InvalidInputError,
            "the only input must be images, not extra, images",
        ),
        (lambda d: classify(d, []), errors.InvalidInputError, "there is no image"),
        (
            lambda d: classify(d, [grey(1)] * 1025),
            errors.InputTooLargeError,
            "can have at most 1,024 encoded images, not 1,025",
        ),
        (lambda d: classify(d, [grey(1)], 0), errors.InvalidInputError, "top_k must"),
        (
            lambda d: classify(d, [grey(1), b"x"]),
            errors.UnsupportedImageError,
            "image 2 of 2: these 1 bytes are not an image",
        ),
    ],
)
def test_bad_questions_get_clear_errors(
    dataplane: Dataplane, ask: Callable[[Dataplane], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        ask(dataplane)
    assert message in str(refused.value)


def test_a_refused_version_is_logged_by_name(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Dataplane.open(repository)
    assert caplog.messages == [
        "grey/2 refused: labels.txt does not match its checksum in model.json"
    ]


def test_a_graph_that_does_not_load_is_refused_like_a_changed_file(tmp_path: Path) -> None:
    write_version(tmp_path / "grey" / "1")
    write_version(tmp_path / "grey" / "2", b"not a graph")
    dataplane = Dataplane.open(tmp_path)
    assert dataplane.metadata(Target("grey")).version == 1
    assert dataplane.status(Target("grey"))[0].message.startswith("model.onnx does not load")


def test_a_model_without_a_good_version_is_unavailable_not_unknown(tmp_path: Path) -> None:
    write_version(tmp_path / "grey" / "1")
    write_version(tmp_path / "bad" / "1", format=2)
    with pytest.raises(errors.ModelUnavailableError, match=r"bad/1 refused: model\.json: format"):
        predict(IMAGE, "bad")(Dataplane.open(tmp_path))


def test_closing_does_not_wait_for_a_version_that_is_being_loaded(tmp_path: Path) -> None:
    write_version(tmp_path / "grey" / "1")
    dataplane = Dataplane.open(tmp_path)
    closed = threading.Thread(target=dataplane.close, daemon=True)
    with dataplane.manager._changing:
        dataplane.stop(0.05)
        closed.start()
        closed.join(10)
        assert not closed.is_alive()


@pytest.mark.parametrize(
    ("directories", "lines"),
    [
        (
            [],
            ["has no model that can be served; export one there, for instance as models/digits/1"],
        ),
        (["notes"], ["has no model", "notes refused: it has no version"]),
        (["a/1", "b/2"], ["has no model", "a/1 refused: model.json", "b/2 refused: model.json"]),
    ],
)
def test_nothing_to_serve_names_every_reason(
    tmp_path: Path, directories: list[str], lines: list[str]
) -> None:
    for directory in directories:
        (tmp_path / directory).mkdir(parents=True)
    with pytest.raises(errors.RepositoryError) as refused:
        Dataplane.open(tmp_path)
    found = str(refused.value).split("\n")
    assert len(found) == len(lines)
    assert all(wanted in line for wanted, line in zip(lines, found, strict=True))


@pytest.mark.parametrize(
    ("images", "outputs", "message"),
    [
        (np.full((1, 8, 8, 1), 9, np.uint8), ("logits",), "there is no output 'logits'"),
        (np.full((1, 9, 9, 1), 9, np.uint8), (), "[N, 8, 8, 1], not of shape [1, 9, 9, 1]"),
    ],
)
def test_a_successor_is_asked_only_what_it_answers(
    tmp_path: Path, images: NDArray[np.uint8], outputs: tuple[str, ...], message: str
) -> None:
    write_version(tmp_path / "grey" / "1", graph(extra_output=True), outputs=OUTPUTS)
    dataplane = Dataplane.open(tmp_path)
    found = dataplane._find(Target("grey"))
    write_version(tmp_path / "grey" / "2")
    dataplane.manager.sync()
    found.batcher.close()
    with pytest.raises(errors.InvalidInputError) as refused:
        asyncio.run(
            asyncio.wait_for(
                dataplane._answer(Target("grey"), found, images, (), outputs, None, 0, 0), 10
            )
        )
    assert message in str(refused.value)
    assert classify(dataplane, [grey(130)])[0][0].label == "grey-5"
    dataplane.close(5)


def test_a_successor_decodes_anew(tmp_path: Path) -> None:
    """The pixels that the predecessor decoded from an image may not fit its successor."""
    larger = {"resize_shorter": 16, "crop": 16, "interpolation": "bilinear"}
    preprocessing = larger | {"antialias": True, "channels": 1}
    inputs = [{"name": "images", "dtype": "uint8", "shape": [None, 16, 16, 1]}]
    write_version(tmp_path / "grey" / "1", graph(16), preprocessing=preprocessing, inputs=inputs)
    dataplane = Dataplane.open(tmp_path)
    found = dataplane._find(Target("grey"))
    write_version(tmp_path / "grey" / "2")
    dataplane.manager.sync()
    found.batcher.close()
    thumbnail = grey(130, (16, 16), "JPEG")
    answer = dataplane._answer(Target("grey"), found, None, [thumbnail], (), None, 0, 0)
    prediction = asyncio.run(asyncio.wait_for(answer, 10))
    assert prediction.source.version == 2
    assert prediction.outputs["probabilities"].argmax() == 5
    dataplane.close(5)


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[Dataplane]:
    """A data plane with a budget of 1,000 bytes; an image has 64."""
    write_version(tmp_path / "grey" / "1")
    options = Options(budget=Budget(1000), admin=True)
    dataplane = Dataplane.open(tmp_path, options=options)
    yield dataplane
    dataplane.close(5)
    assert dataplane.budget.used == 0


def test_a_request_holds_the_memory_of_its_pixels_until_its_answer(tight: Dataplane) -> None:
    images = {"images": np.full((3, 8, 8, 1), 130)}

    async def main() -> None:
        answers = [tight.predict_bytes(Target("grey"), [grey(130)] * 2) for _ in range(2)]
        answers.append(tight.predict(Target("grey"), images))
        tasks = [asyncio.create_task(answer) for answer in answers]
        await asyncio.sleep(0)
        assert tight.budget.used == (2 + 2 + 3) * 64
        await asyncio.gather(*tasks)
        assert tight.budget.used == 0
        cancelled = asyncio.create_task(tight.predict(Target("grey"), images))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert tight.budget.used == 0
        with pytest.raises(errors.UnsupportedImageError):
            await tight.predict_bytes(Target("grey"), [grey(130), b"x"])

    asyncio.run(main())


def test_pixels_that_came_as_they_are_belong_to_the_body(tight: Dataplane) -> None:
    images = np.full((9, 8, 8, 1), 130, np.uint8)
    prediction = predict(images)(tight)
    assert len(prediction.outputs["probabilities"]) == 9


def test_pixels_that_take_too_much_memory_are_refused(tight: Dataplane) -> None:
    with pytest.raises(errors.InputTooLargeError, match="the request needs about"):
        classify(tight, [grey(130)] * 8)
    with pytest.raises(errors.InputTooLargeError, match="the request needs about"):
        predict(np.full((8, 8, 8, 1), 130))(tight)
    with tight.budget.claim(450):
        with tight.budget.claim(200), pytest.raises(errors.QueueFullError):
            classify(tight, [grey(130)] * 3)
        assert len(classify(tight, [grey(130)] * 3)) == 3
    (servable,) = tight.served()
    assert servable.recorder.outcomes == {
        "INVALID_ARGUMENT": 2,
        "RESOURCE_EXHAUSTED": 1,
        "OK": 1,
    }


def test_an_image_that_takes_too_much_memory_to_decode_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path / "grey" / "1")
    dataplane = Dataplane.open(tmp_path, options=Options(budget=Budget(10_000_000)))
    with pytest.raises(errors.ImageTooLargeError, match="needs 6 MB of memory; the limit of a req"):
        classify(dataplane, [grey(130, (3000, 2000), "JPEG")])
    dataplane.close(5)


def test_changes_of_what_is_served_take_no_thread_from_others(tight: Dataplane) -> None:
    async def main() -> None:
        with tight.manager._changing:
            changes = [tight.load("grey"), tight.unload("grey"), tight.load("grey")]
            changes += [tight.load("grey") for _ in range(30)]
            tasks = [asyncio.create_task(change) for change in changes]
            await asyncio.sleep(0)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: 5), 10) == 5
            with pytest.raises(errors.DeadlineExceededError):
                await tight.load("grey", time.monotonic() + 0.01)
            for task in tasks[3:]:
                task.cancel()
        await asyncio.gather(*tasks[:3])
        assert tight.ready(Target("grey"))

    asyncio.run(main())
