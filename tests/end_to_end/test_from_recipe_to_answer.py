"""From a recipe to an answer: the server's answer for a PNG is Keras' answer for its pixels."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from client import get, post, server
from PIL import Image

from keras_cnns.data import load_split
from keras_cnns.training import open_run


@pytest.fixture(scope="module")
def images(run_directory: Path) -> np.ndarray:
    data = open_run(run_directory).recipe.data
    return next(load_split(data, data.test_split, batch_size=8).as_numpy_iterator())[0]  # type: ignore[no-any-return]


def test_the_same_pixels_give_the_same_answer_everywhere(
    run_directory: Path, model_repository: Path, images: np.ndarray
) -> None:
    expected = open_run(run_directory).load_model().predict(images, verbose=0)
    with server([sys.executable, "-m", "keras_cnns_serve.cli"], model_repository) as address:
        model = f"{address}/v1/models/quick"
        body = json.dumps({"instances": images.tolist()}).encode()
        served = np.asarray(post(f"{model}:predict", body)["predictions"])
        np.testing.assert_allclose(served, expected, atol=1e-5)

        for image, probabilities in zip(images, expected, strict=True):
            png = io.BytesIO()
            Image.fromarray(image[..., 0]).save(png, "PNG")
            (answer,) = post(f"{model}:classify-image?top_k=10", png.getvalue())["predictions"]
            by_label = {each["label"]: each["probability"] for each in answer["labels"]}
            given = [by_label[str(label)] for label in range(10)]
            np.testing.assert_allclose(given, probabilities, atol=1e-5)

        signature = get(f"{model}/metadata")["metadata"]["signature_def"]["signature_def"]
        assert signature["serving_default"]["inputs"]["images"]["dtype"] == "DT_UINT8"


def test_a_second_export_is_a_second_version(run_directory: Path, model_repository: Path) -> None:
    before = (model_repository / "quick" / "1" / "model.json").read_bytes()
    from keras_cnns_export import export_run

    assert export_run(run_directory, model_repository / "quick").name == "2"
    assert (model_repository / "quick" / "1" / "model.json").read_bytes() == before
