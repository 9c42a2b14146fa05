import tracemalloc
from typing import Any

import numpy as np
import pytest

from keras_cnns_serve.core.inputs import check_contents, check_images
from keras_cnns_serve.errors import InputTooLargeError, InvalidInputError
from keras_cnns_serve.repository.manifest import read_manifest
from tests.serve.conftest import write_version

SHAPE = (100_000, 8, 8, 1)


@pytest.mark.parametrize(
    ("value", "example"), [(True, "not 'True'"), (np.array(b"x" * 10**6, object), "xxx")]
)
def test_one_value_for_a_whole_shape_is_not_looked_at_everywhere(
    tmp_path: Any, value: Any, example: str
) -> None:
    manifest = read_manifest(write_version(tmp_path / "grey" / "1") / "model.json")
    images = np.broadcast_to(value, SHAPE)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=example):
            check_images(manifest, {"images": images})
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_floats_are_told_how_to_become_pixels(tmp_path: Any) -> None:
    manifest = read_manifest(write_version(tmp_path / "grey" / "1") / "model.json")
    with pytest.raises(InvalidInputError, match=r"send integers, e\.g\. image\.astype"):
        check_images(manifest, {"images": np.full((1, 8, 8, 1), 0.5)})


def test_the_pixels_of_one_request_are_bounded(tmp_path: Any) -> None:
    large = {"resize_shorter": 8192, "crop": 8192, "interpolation": "bilinear"}
    directory = write_version(
        tmp_path / "grey" / "1",
        preprocessing=large | {"antialias": True, "channels": 3},
        inputs=[{"name": "images", "dtype": "uint8", "shape": [None, 8192, 8192, 3]}],
    )
    manifest = read_manifest(directory / "model.json")
    check_contents(manifest, [b"x"] * 2)
    with pytest.raises(InputTooLargeError, match="can have at most 2 encoded images, not 3"):
        check_contents(manifest, [b"x"] * 3)
