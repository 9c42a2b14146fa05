import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from keras_cnns_serve.engines.onnxruntime import OnnxRuntimeEngine
from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.scoring.pipeline import Scorer, _Memory, work_in_order
from keras_cnns_serve.scoring.shards import open_version
from tests.serve.conftest import graph, grey, write_version

CONTENTS = {
    "dark": grey(0),
    "middle": grey(130, (40, 30), "JPEG"),
    "light": grey(250, encoding="BMP"),
    "cut": grey(130, (200, 200), "JPEG")[:-100],
    "text": b"no image",
    "large": grey(130, (101, 100)),
}


def scorer_of(source: ModelVersion, top_k: int = 1, slots: int = 2) -> Scorer:
    engine = OnnxRuntimeEngine(source.directory / "model.onnx", source.manifest, 1)
    return Scorer(source, engine, slots, 2**20, top_k, 40_000, CONTENTS.__getitem__)


def test_a_batch_has_a_row_for_each_image_in_order(source: ModelVersion) -> None:
    names = ["text", "light", "cut", "dark", "middle"]
    rows = scorer_of(source).score(names)
    assert [row.file for row in rows] == names
    assert [row.best and row.best[0].label for row in rows] == [
        *((), "grey-9", (), "grey-0", "grey-5"),
    ]
    assert rows[0].error.startswith("these 8 bytes are not an image in JPEG, PNG")
    assert rows[2].error.startswith("the JPEG image is damaged or cut short")
    assert [row.error for row in rows if row.best] == ["", "", ""]


def test_a_batch_without_an_image(source: ModelVersion) -> None:
    assert [row.best for row in scorer_of(source).score(["text", "text"])] == [(), ()]


def test_the_labels_are_sorted(source: ModelVersion) -> None:
    (row,) = scorer_of(source, top_k=3).score(["dark"])
    assert [label for label, _ in row.best] == ["grey-0", "grey-1", "grey-2"]
    probabilities = [probability for _, probability in row.best]
    assert probabilities == sorted(probabilities, reverse=True)


def test_only_the_image_that_fails_has_an_error(tmp_path: Path) -> None:
    write_version(tmp_path / "fragile" / "1", graph(fragile=True))
    rows = scorer_of(open_version(tmp_path / "fragile")).score(["dark", "light", "dark"])
    assert [bool(row.best) for row in rows] == [True, False, True]
    assert rows[1].error.startswith("the model does not run: ")


def test_a_probability_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    write_version(tmp_path / "nan" / "1", graph(nan=True))
    rows = scorer_of(open_version(tmp_path / "nan")).score(["dark", "light"])
    assert [row.error for row in rows] == ["the model's output is not a number", ""]


def test_no_more_runs_than_slots_while_other_threads_decode(source: ModelVersion) -> None:
    running, decoding, most = [0], threading.Event(), [0]

    class Engine:
        def run(self, images: np.ndarray, names: object = None) -> dict[str, np.ndarray]:
            running[0] += 1
            most[0] = max(most[0], running[0])
            assert decoding.wait(10)  # a batch is decoded while another one is computed
            running[0] -= 1
            return {"probabilities": np.eye(10, dtype=np.float32)[[3] * len(images)]}

    def read(name: str) -> bytes:
        if running[0]:
            decoding.set()
        return CONTENTS["dark"]

    scorer = Scorer(source, Engine(), 1, 2**20, read=read)
    batches = [["a", "b"] for _ in range(10)]
    rows = [row for each in work_in_order(scorer.score, batches, 4) for row in each]
    assert {row.best[0].label for row in rows} == {"grey-3"}
    assert (len(rows), most[0]) == (20, 1)


@pytest.mark.parametrize("workers", [1, 4])
def test_results_are_in_order_and_few_batches_are_in_progress(workers: int) -> None:
    taken = [0]

    def batches() -> Iterator[int]:
        for number in range(1000):
            taken[0] = number + 1
            yield number

    def work(number: int) -> int:
        time.sleep(0.001 * (number % 7 == 0))
        return number

    for expected, number in enumerate(work_in_order(work, batches(), workers)):
        assert number == expected
        assert taken[0] - number <= 2 * workers
    assert taken[0] == 1000


def test_closing_drops_the_batches_that_wait() -> None:
    done: list[int] = []
    results = work_in_order(done.append, range(1000), 2)
    next(results)
    results.close()
    assert len(done) < 10


def test_an_error_of_the_program_ends_the_work() -> None:
    def work(number: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(work_in_order(work, range(100), 2))


def test_large_images_share_memory() -> None:
    memory, used, most = _Memory(10), [0], [0]
    lock = threading.Lock()

    def decode(size: int) -> None:
        with memory.claim(size):
            with lock:
                used[0] += size
                most[0] = max(most[0], used[0])
            time.sleep(0.002)
            with lock:
                used[0] -= size

    list(work_in_order(decode, [4, 6, 3, 20, 5, 5, 9, 2], 8))  # 20: alone
    assert most[0] == 20
    list(work_in_order(decode, [4, 6, 3, 5, 5, 9, 2], 8))
    assert used[0] == 0


def test_an_image_with_too_many_pixels_is_an_error(source: ModelVersion) -> None:
    engine = OnnxRuntimeEngine(source.directory / "model.onnx", source.manifest, 1)
    scorer = Scorer(source, engine, 1, 2**20, max_pixels=10_000, read=CONTENTS.__getitem__)
    (row,) = scorer.score(["large"])
    assert row.error == "the image has 101 x 100 pixels, more than 10,000"
