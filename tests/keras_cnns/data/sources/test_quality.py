"""Images that are blurry, dark, tiny or of one colour, at thresholds that are written down."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from keras_cnns.data.check import check_folder
from keras_cnns.data.decoding import set_upright
from keras_cnns.data.sources.folder import appearance
from keras_cnns.data.sources.folder.appearance import Appearance, measure_appearance


def scene(seed: int, side: int = 256) -> Image.Image:
    """Return a picture of sharp boxes on a ground of coarse noise."""
    random = np.random.default_rng(seed)
    ground = Image.fromarray(random.integers(60, 200, (8, 8, 3), np.uint8))
    levels = np.array(ground.resize((side, side), Image.Resampling.BICUBIC))
    for _ in range(12):
        top, left, height, width = random.integers(0, side // 2, 4)
        levels[top : top + height, left : left + width] = random.integers(0, 256, 3)
    return Image.fromarray(levels)


def measure(image: Image.Image) -> Appearance:
    return measure_appearance(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("side", [128, 256, 600])
def test_an_image_is_blurry_from_a_fiftieth_of_its_side_on(seed: int, side: int) -> None:
    image = scene(seed, side)
    assert not measure(image).is_blurry
    assert not measure(image.filter(ImageFilter.GaussianBlur(side / 256))).is_blurry
    assert measure(image.filter(ImageFilter.GaussianBlur(side / 25))).is_blurry
    # The contrast does not matter.
    faint = Image.fromarray((np.asarray(image) // 4 + 90).astype(np.uint8))
    assert not measure(faint).is_blurry


def test_small_images_and_images_of_one_colour_are_not_called_blurry() -> None:
    assert not measure(scene(0).resize((31, 200))).is_blurry
    flat = measure(Image.new("RGB", (200, 200), (90, 90, 90)))
    assert flat.is_flat
    assert not flat.is_blurry
    assert not flat.is_dark


@pytest.mark.parametrize(
    ("level", "is_dark"),
    [(appearance.DARK_BRIGHTNESS - 1, True), (appearance.DARK_BRIGHTNESS, False)],
)
def test_an_image_is_dark_if_99_percent_of_it_are(level: int, is_dark: bool) -> None:
    levels = np.random.default_rng(0).integers(0, level, (100, 100, 3), np.uint8)
    levels[:2] = level
    assert measure_appearance(levels).is_dark == is_dark
    levels[:1, :50] = 255  # half a percent, such as a lamp at night
    assert measure_appearance(levels).is_dark == is_dark


@pytest.mark.parametrize("amplitude", [1, 3, 8, 30])
def test_an_image_is_of_one_colour_below_a_deviation(amplitude: int) -> None:
    levels = np.full((64, 64, 3), 100, np.uint8)
    levels[::2] += np.uint8(amplitude)
    found = measure_appearance(levels)
    assert found.deviation == pytest.approx(amplitude / 2, abs=0.1)
    assert found.is_flat == (amplitude / 2 < appearance.FLAT_DEVIATION)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_thumbnail_is_upright(orientation: int) -> None:
    pixels = np.asarray(scene(1).resize((90, 60)))
    upright = np.asarray(set_upright(pixels, orientation))
    turned, straight = measure_appearance(pixels, orientation), measure_appearance(upright)
    levels = (np.frombuffer(each.thumbnail, np.uint8).astype(int) for each in (turned, straight))
    assert np.abs(np.subtract(*levels)).max() <= 1


def test_poor_images_are_listed_with_the_worst_first(tmp_path: Path) -> None:
    for seed in range(20):
        path = tmp_path / "ab"[seed % 2] / f"{seed}.png"
        path.parent.mkdir(exist_ok=True)
        scene(seed).save(path)
    blurred = scene(20).filter(ImageFilter.GaussianBlur(12))
    blurred.save(tmp_path / "a" / "blurred.png")
    scene(21).filter(ImageFilter.GaussianBlur(40)).save(tmp_path / "a" / "more.png")
    dark = Image.fromarray(np.asarray(scene(22)) // 8)
    dark.save(tmp_path / "b" / "night.png")
    Image.new("L", (256, 256), 3).save(tmp_path / "b" / "black.png")
    scene(23, 48).save(tmp_path / "b" / "icon.png")
    scene(24, 64).save(tmp_path / "b" / "small.png")
    report = check_folder(tmp_path)
    found = {each.title: each.lines for each in report.findings if each.lines}
    assert not report.has_errors
    blurry = [line.split(": sharpness ") for line in found.pop("blurry images")]
    assert {name for name, _ in blurry} == {"a/more.png", "a/blurred.png"}
    assert blurry == sorted(blurry, key=lambda each: float(each[1]))
    assert found == {
        "dark images": ("b/night.png: 99 % of the pixels are below level 27",),
        "images of one colour": ("b/black.png: standard deviation 0.0 (levels 0 to 255)",),
        "tiny images": ("b/icon.png: 48x48 pixels",),
    }
