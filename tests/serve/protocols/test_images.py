"""Forms of images; tfserving/test_rest.py has the tests of bodies that are a single image."""

import tempfile
from pathlib import Path

import pytest

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from tests.serve.conftest import Client, grey

LARGE = grey(130, (2000, 1600), "BMP")  # 3.2 MB; Starlette's parser writes files above 1 MB


@pytest.mark.parametrize("images", [1, 3])
def test_a_form_is_held_in_memory(
    dataplane: Dataplane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    client = Client(create_app(dataplane, max_body_bytes=10 * 2**20))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    files = [("image", (f"{number}.bmp", LARGE)) for number in range(images)]
    response = client.post("/v1/models/grey:classify-image?top_k=1", files=files)
    assert response.status_code == 200, response.text
    labels = [each["labels"][0]["label"] for each in response.json()["predictions"]]
    assert labels == ["grey-5"] * images
