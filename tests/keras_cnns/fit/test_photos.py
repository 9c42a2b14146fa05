"""What is measured about a folder of photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnns.data.sources.folder import FolderError
from keras_cnns.fit.photos import SIZES, Photos, examine, measure_levels
from keras_cnns.recipes import DataConfig


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 20 x 30 pixels, 10 of them in colour; an image in two classes; a bad file."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = generator.integers(100, 151, (20, 30, 3), np.uint8)
        if number >= 10:
            pixels[:] = pixels[..., :1]
        write(root / "ab"[number % 2] / f"{number}.png", pixels)
    write(root / "a" / "twice.png", np.full((20, 30), 7, np.uint8))
    write(root / "b" / "twice.png", np.full((20, 30), 7, np.uint8))
    (root / "b" / "bad.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def photos(folder: Path) -> Photos:
    return examine(folder)


def test_bad_files_are_left_out_and_listed(photos: Photos) -> None:
    assert photos.files == 43
    assert sorted(path for path, _ in photos.left_out) == [
        "a/twice.png",
        "b/bad.jpg",
        "b/twice.png",
    ]
    assert photos.classes == {"a": 20, "b": 20}
    assert sum(photos.splits.values()) == 40


def test_colours_sides_and_levels_are_measured(photos: Photos) -> None:
    assert (photos.sides[0], photos.sides[-1]) == (20, 20)
    assert photos.grey == pytest.approx(0.75, abs=0.2)  # of the training images
    data = DataConfig("folder", 20, 20, 1, (0.0,), (1.0,), path=str(photos.root))
    (mean,), (std,) = measure_levels(photos, data)
    assert mean == pytest.approx(125, abs=2)
    assert std == pytest.approx(14.5, abs=1.5)
    assert set(photos.lost_detail) == set(SIZES)
    assert set(photos.lost_detail.values()) == {0.0}  # all candidates are larger than the images


def test_enlarged_images_lose_no_detail_and_noise_loses_most(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, enlarged in (("enlarged", True), ("noise", False)):
        for number in range(24):
            side = 16 if enlarged else 128
            image = Image.fromarray(generator.integers(0, 256, (side, side), np.uint8))
            path = tmp_path / name / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.resize((128, 128), Image.Resampling.BICUBIC).save(path)
    assert examine(tmp_path / "enlarged").lost_detail[48] < 0.02
    assert examine(tmp_path / "noise").lost_detail[48] > 0.5


def test_what_no_left_out_file_repairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        examine(tmp_path / "nowhere")
    for number in range(40):
        write(tmp_path / "only" / f"{number}.png", np.full((8, 8), number, np.uint8))
    with pytest.raises(FolderError, match="only the class 'only'"):
        examine(tmp_path)
