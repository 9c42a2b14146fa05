import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf

from keras_cnns_export import ExportError
from keras_cnns_export.batches import Array, Batch, Predict, batches_of, generated_batches
from keras_cnns_export.contract import FormatParity, Metrics
from keras_cnns_export.errors import FormatError
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.graph import OwnAnswers, serving_graph
from keras_cnns_export.parity import compare

SHAPE = (2, 2, 1)


def answering(table: list[list[float]]) -> Predict:
    """Return a model whose answer for an image, all of whose pixels are i, is row i."""
    rows = np.array(table, np.float32)
    return lambda images: {"probabilities": rows[images[:, 0, 0, 0]]}


def numbered(count: int, labels: Array | None = None) -> Iterator[Batch]:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, *SHAPE), np.uint8)
    return batches_of((images, labels), SHAPE)


def test_the_result(tiny: Any) -> None:
    reference = answering([[0.7, 0.3], [0.2, 0.8], [0.50002, 0.49998], [1, 0], [0, 1]])
    formats = {
        "same": reference,
        # sample 1 is off by 5e-5, and sample 2, a tie, has the other class first
        "near": answering([[0.7, 0.3], [0.20005, 0.79995], [0.49999, 0.50001], [1, 0], [0, 1]]),
    }
    parity, metrics, worst = compare(
        reference, formats, numbered(5, np.array([0, 1, 1, 1, 1])), "test"
    )
    assert (parity.split, parity.samples) == ("test", 5)
    assert metrics == Metrics("test", 5, 0.6)
    assert parity.formats["same"] == FormatParity(0.0, 0.0, 1.0, 0.6)
    near = parity.formats["near"]
    assert near.largest_difference == pytest.approx(5e-5, rel=1e-2)
    assert near.mean_difference == pytest.approx((5e-5 + 3e-5) / 5, rel=1e-2)
    assert (near.top_1_agreement, near.accuracy) == (1.0, 0.8)
    assert near.worst_sample == 1
    assert [(name, image.shape, image[0, 0, 0]) for name, image in worst.items()] == [
        ("same", SHAPE, 0),
        ("near", SHAPE, 1),
    ]


def test_without_labels_there_is_no_accuracy() -> None:
    reference = answering([[0.7, 0.3], [0.2, 0.8]])
    parity, metrics, _ = compare(reference, {"same": reference}, numbered(2), "test")
    assert metrics is None
    assert parity.formats["same"].accuracy is None


EXACT = [[0.5, 0.5], [0.7, 0.3], [0.2, 0.8], [0.50008, 0.49992], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: [0.3, 0.7]}, r"differ by up to 0.1 \(at most 0.0001.*image 2 of 5 in 'test'"),
        ({0: [float("nan"), 0]}, "it answers NaN for image 0 of 5 in 'test', and Keras does not"),
        ({4: [float("nan"), 0]}, "it answers NaN for image 4 of 5 in 'test', and Keras does not"),
        ({4: [float("inf"), 0]}, "it answers infinity for image 4 of 5 in 'test', and Keras does"),
        ({3: [0.49999, 0.50001]}, "image 3 of 5 in 'test', Keras predicts class 0 and it predicts"),
        ({i: [1, 0, 0] for i in range(5)}, r"it gives the shape \[1, 3\] for the output prob"),
    ],
)
def test_a_format_that_disagrees_is_refused_by_name_and_image(
    change: dict[int, list[float]], message: str
) -> None:
    given = [change.get(i, row) for i, row in enumerate(EXACT)]
    with pytest.raises(FormatError, match=message) as caught:
        compare(answering(EXACT), {"it": answering(given)}, numbered(5), "test")
    assert str(caught.value).startswith("it ")
    assert caught.value.format == "it"


def test_a_format_that_fails_is_named_and_its_exception_is_the_cause() -> None:
    def fails(images: Array) -> dict[str, Array]:
        raise RuntimeError("no kernel\nfor this")

    with pytest.raises(FormatError, match=r"^it: RuntimeError: no kernel for this$") as caught:
        compare(answering(EXACT), {"it": fails}, numbered(5), "test")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_models_own_precision_is_measured_and_not_judged() -> None:
    own = OwnAnswers("mixed_bfloat16", answering([[0.6, 0.4], [0.7, 0.3], [0.4, 0.6]]))
    reference = answering([[0.7, 0.3], [0.7, 0.3], [0.6, 0.4]])
    parity, *_ = compare(reference, {}, numbered(3, np.zeros(3, int)), "test", own=own)
    own_result = parity.own_precision
    assert own_result is not None
    assert (own_result.policy, own_result.worst_sample) == ("mixed_bfloat16", 2)
    assert own_result.largest_difference == pytest.approx(0.2)
    assert own_result.mean_difference == pytest.approx(0.1)
    assert own_result.top_1_agreement == pytest.approx(2 / 3)
    assert own_result.accuracy == pytest.approx(2 / 3)
    nan = OwnAnswers("mixed_float16", answering([[0.7, 0.3], [float("nan"), 0], [0.6, 0.4]]))
    with pytest.raises(
        ExportError, match=r"ge 1, .* answers NaN in its own precision, mixed_float16,"
    ):
        compare(reference, {}, numbered(3), "test", own=nan)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.6], "image 1, its values range from 0.5 to 0.6, and their sum is 1.1; end the mo"),
        ([-0.5, 1.5], "range from -0.5 to 1.5"),
    ],
)
def test_what_is_no_distribution_is_refused(row: list[float], message: str) -> None:
    reference = answering([[0.5, 0.5], row])
    with pytest.raises(ExportError, match=message):
        compare(reference, {"same": reference}, numbered(2), "test")


def test_the_first_batch_is_cut_so_that_a_fixed_batch_size_shows() -> None:
    sizes: list[int] = []

    def reference(images: Array) -> dict[str, Array]:
        sizes.append(len(images))
        return {"probabilities": np.full((len(images), 2), 0.5, np.float32)}

    compare(reference, {}, generated_batches(SHAPE, count=130), "generated")
    assert sizes == [1, 3, 64, 62]


def test_a_changed_weight_in_the_written_file_is_noticed(
    version: Path, tiny: Any, split: Any, tmp_path: Path
) -> None:
    shutil.copytree(version, tmp_path, dirs_exist_ok=True)
    proto = onnx.load(version / "model.onnx")
    kernel = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(kernel).copy()
    values.flat[0] += 0.1
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    onnx.save(proto, tmp_path / "model.onnx")
    written = {name: FORMATS[name].load(tmp_path) for name in ("saved_model", "onnx")}
    batches = batches_of(split, (12, 10, 3))
    with pytest.raises(ExportError, match="onnx does not give Keras' answers"):
        compare(serving_graph(tiny).reference(), written, batches, "test")


def test_generated_images_are_the_same_each_time_and_use_every_level() -> None:
    one, other = (list(generated_batches((20, 30, 3))) for _ in range(2))
    images = np.concatenate([images for images, _ in one])
    assert images.shape == (256, 20, 30, 3)
    assert images.dtype == np.uint8
    assert len(np.unique(images)) == 256
    np.testing.assert_array_equal(images, np.concatenate([images for images, _ in other]))


def test_the_forms_that_samples_may_have() -> None:
    images, labels = np.zeros((70, *SHAPE), np.uint8), np.arange(70)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(64)
    for data, expected in [(images, None), ((images, labels), labels), (dataset, labels)]:
        batches = list(batches_of(data, SHAPE))
        assert [len(batch) for batch, _ in batches] == [64, 6]
        given = [classes for _, classes in batches if classes is not None]
        np.testing.assert_array_equal(np.concatenate(given) if given else None, expected)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            np.zeros((2, *SHAPE), np.float32),
            r"float32 \[2, 2, 2, 1\]; the model takes uint8",
        ),
        ((np.zeros((2, *SHAPE), np.uint8), np.zeros(3)), "2 images and 3 true classes"),
        (
            (np.zeros((2, *SHAPE), np.uint8), np.zeros((2, 5))),
            r"classes of shape \[2, 5\] for 2",
        ),
        (np.zeros((2, 3, 2, 1), np.uint8), r"uint8 \[2, 3, 2, 1\]; the model takes"),
        ((np.zeros((2, *SHAPE), np.uint8), np.zeros(2)), "type float64; they must be integers"),
        (
            (np.zeros((2, *SHAPE), np.uint8), np.array([3, 4])),
            "the true class 4; the model has 4 classes, whose indices are 0 to 3",
        ),
        ((np.zeros((2, *SHAPE), np.uint8), np.array([-1, 0])), "the true class -1"),
    ],
)
def test_samples_of_another_form_are_refused(samples: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        list(batches_of(samples, SHAPE, 4))


def test_a_split_without_images_proves_nothing() -> None:
    with pytest.raises(ExportError, match="'test' has no images"):
        compare(answering([[1, 0]]), {}, numbered(0), "test")
