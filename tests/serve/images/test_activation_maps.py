import asyncio
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_cnns_serve.compose import create_app
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.limits import Claim
from keras_cnns_serve.core.prediction import Target
from keras_cnns_serve.errors import DeadlineExceededError, QueueFullError
from keras_cnns_serve.images.activation_maps import heat, overlay
from keras_cnns_serve.repository.manifest import Preprocessing
from tests.serve.conftest import CAM, OUTPUTS, Client, grey, with_cam, write_version


def test_the_least_is_cold_and_the_largest_hot() -> None:
    colours = heat(np.array([[-3.0, 5.0]]), (10, 40))
    assert colours.shape == (10, 40, 3)
    cold, hot = colours[5, 0], colours[5, -1]
    assert cold[2] > cold[0]  # blue
    assert hot[0] > hot[2]  # red


@pytest.mark.parametrize("activation", [np.zeros((2, 2)), np.full((2, 2), np.nan)])
def test_a_map_without_differences_is_cold(activation: np.ndarray) -> None:
    assert np.ptp(heat(activation, (8, 8)), axis=(0, 1)).max() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_overlay_lies_over_what_the_graph_saw(channels: int) -> None:
    png = overlay(grey(200, (40, 20)), np.eye(2), Preprocessing(16, (12, 12), channels))
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.size, image.mode) == ("PNG", (12, 12), "RGB")


def test_the_server_draws_it_where_the_model_has_the_output(tmp_path: Path) -> None:
    write_version(tmp_path / "seen" / "1", with_cam(), outputs=[*OUTPUTS, CAM])
    write_version(tmp_path / "blind" / "1")
    dataplane = Dataplane.open(tmp_path)
    client = Client(create_app(dataplane))
    half = Image.new("L", (8, 8), 0)
    half.paste(255, (4, 0, 8, 8))
    png = io.BytesIO()
    half.save(png, "PNG")
    path = "/v1/models/seen:classify-image?cam=1"
    response = client.post(path, content=png.getvalue())
    assert response.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(response.content))).astype(int)
    assert pixels[4, 0, 2] > pixels[4, 0, 0]
    assert pixels[4, 7, 0] > pixels[4, 7, 2]
    image, colours = (
        np.asarray(Image.open(io.BytesIO(client.post(f"{path}&opacity={opacity}", **sent).content)))
        for sent in [{"content": png.getvalue()}]
        for opacity in ("0", "1.0")
    )
    assert (image == np.asarray(half)[..., None]).all()
    assert np.abs(pixels - (image / 2 + colours / 2)).max() <= 1

    prediction = asyncio.run(dataplane.predict_bytes(Target("seen"), [png.getvalue()]))
    drawn = asyncio.run(dataplane.draw_activation_map(prediction, png.getvalue()))
    assert drawn == response.content
    assert dataplane.budget.used == 0
    size, claims = dataplane.budget.limit // 2, list[Claim]()
    while size >= 32:
        claims.append(dataplane.budget.claim(size))
        size //= 2
    soon = time.monotonic() + 0.05
    late = dataplane.draw_activation_map(prediction, png.getvalue(), deadline=soon)
    with pytest.raises((QueueFullError, DeadlineExceededError)):
        asyncio.run(late)
    for claim in claims:
        claim.release()

    two: dict[str, Any] = {"files": [("f", ("a.png", grey(1))), ("f", ("b.png", grey(2)))]}
    one: dict[str, Any] = {"content": grey(1)}
    for asked, request, message in [
        (path, two, "cam=1 needs one image, not 2"),
        ("/v1/models/blind:classify-image?cam=1", one, "blind/1 has no class act"),
        (f"{path}&opacity=1.5", one, "opacity must be a number from 0 to 1, not '1.5'"),
    ]:
        response = client.post(asked, **request)
        assert response.status_code == 400
        assert message in response.json()["error"]
    dataplane.close(5)
