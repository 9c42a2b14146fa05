"""Measure a folder of photos: the usable files, colours, sizes, detail and levels."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from keras_cnns.cores import available_cores
from keras_cnns.data import preprocess, read_image
from keras_cnns.data.sources.by_content import FRACTIONS
from keras_cnns.data.sources.folder import FolderError
from keras_cnns.data.sources.folder.files import scan_folder
from keras_cnns.data.sources.folder.findings import (
    describe,
    find_problems,
    find_split_problems,
    printable,
)
from keras_cnns.data.sources.folder.splits import assign_splits
from keras_cnns.recipes import DataConfig

SIZES = (32, 48, 64, 96, 128, 160, 224)  # pixels, the candidates for the network's input
_SAMPLE = 300  # maximum number of training images that are measured
# A photo whose shorter side has more pixels than this is reduced to it before its detail is
# measured.
_REFERENCE = 448
_GREY = 2.0  # levels: the maximum mean difference between the colour channels of a grey photo
_SPLITS = ("train", *FRACTIONS)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Photos:
    """The facts about a folder on which the choices are based."""

    root: Path
    files: int  # number of images, readable or not
    left_out: tuple[tuple[str, str], ...]  # (relative path, reason)
    warnings: tuple[str, ...]  # findings that do not prevent training
    classes: dict[str, int]  # class -> number of usable images
    splits: dict[str, int]  # split -> number of images
    sides: tuple[int, ...]  # the shorter side of each usable image in pixels, ascending
    sample: tuple[Path, ...]  # the training images that are measured
    grey: float  # the fraction of images in the sample that have no colour
    lost_detail: dict[int, float]  # size -> fraction of the variance that is lost by resizing to it

    def quantile(self, fraction: float) -> int:
        """Return a quantile of the shorter sides, in pixels."""
        return self.sides[round(fraction * (len(self.sides) - 1))]


def examine(root: str | Path) -> Photos:
    """Read and check all files of a folder, and measure a sample of its training images.

    Files that would make training fail are left out: unreadable files, and formats that must be
    converted. If copies of an image lie in two classes, all copies are left out, since only a
    person can know which label is right. If copies lie in two splits, only the copy in the test
    split is used, or, if there is none, the copy in the validation split.

    Raises:
        ValueError: there is no such folder, or it contains no class.
        FolderError: the folder has an error that leaving out files cannot repair, such as a class
            without training images.
    """
    scan = scan_folder(root)
    findings = find_problems(scan)
    reasons = {
        file.path: file.problem or finding.title for finding in findings for file in finding.to_skip
    }
    usable = tuple(file for file in scan.files if file.path not in reasons)
    cleaned = replace(scan, files=usable)
    left = (*find_problems(cleaned), *find_split_problems(usable, FRACTIONS)) if usable else ()
    if not usable:
        raise FolderError(f"none of the {len(scan.files)} files in {root} can be used")
    if errors := [finding for finding in left if finding.is_error and finding.lines]:
        raise FolderError(f"{root} cannot be used: {'. '.join(map(describe, errors))}")
    splits = assign_splits(usable, FRACTIONS)
    # Sorting by the hash of the content gives a random, but reproducible order.
    training = sorted((file.digest, file.path) for file in splits["train"])
    sample = tuple(path for _, path in training[:_SAMPLE])
    grey, lost_detail = _measure(sample)
    return Photos(
        root=Path(root),
        files=len(scan.files),
        left_out=tuple(
            (printable(path.relative_to(scan.root).as_posix()), reason)
            for path, reason in reasons.items()
        ),
        warnings=tuple(
            f"{finding.title}: {len(finding.lines)}"
            for finding in left
            if finding.lines and finding.to_skip == () and not finding.is_error
        ),
        classes={
            printable(label): count for label, count in Counter(f.label for f in usable).items()
        },
        splits={name: len(splits.get(name, ())) for name in _SPLITS},
        sides=tuple(sorted(min(file.size) for file in usable)),
        sample=sample,
        grey=grey,
        lost_detail=lost_detail,
    )


def measure_levels(photos: Photos, data: DataConfig) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel, in levels from 0 to 255.

    Args:
        photos: the facts about the folder. The sample is read with the network's preprocessing.
        data: the size and the channels; `data.mean` and `data.std` are not used.
    """

    def moments(path: Path) -> np.ndarray:
        pixels = np.asarray(
            preprocess(read_image(path, data.channels), data.preprocessing()), np.float64
        )
        return np.stack([pixels.mean((0, 1)), (pixels**2).mean((0, 1))])

    mean, square = np.mean(_map(moments, photos.sample), axis=0)
    # At least 1, since a constant image has a variance of 0.
    std = np.sqrt(np.maximum(square - mean**2, 1.0))
    return [round(float(each), 1) for each in mean], [round(float(each), 1) for each in std]


def _measure(paths: Sequence[Path]) -> tuple[float, dict[int, float]]:
    """Return the fraction of grey images, and size -> mean lost detail for each of `SIZES`.

    An image's lost detail is the mean squared difference between the image and a copy that was
    reduced to the size and enlarged again, divided by the variance of the image.
    """

    def measure(path: Path) -> tuple[float, list[float]]:
        pixels = read_image(path, 3)
        spread = float(np.ptp(pixels.astype(np.int16), axis=2).mean())
        image = Image.fromarray(pixels).convert("L")
        if min(image.size) > _REFERENCE:
            image = _resize(image, _REFERENCE)
        levels = np.asarray(image, np.float64)
        variance = max(float(levels.var()), 1.0)
        lost = []
        for size in SIZES:
            if size >= min(image.size):
                lost.append(0.0)
                continue
            enlarged = _resize(image, size).resize(image.size, Image.Resampling.BICUBIC)
            lost.append(float(np.mean((levels - np.asarray(enlarged)) ** 2)) / variance)
        return spread, lost

    results = _map(measure, paths)
    grey = float(np.mean([spread < _GREY for spread, _ in results]))
    lost = np.mean([each for _, each in results], axis=0)
    return grey, {size: float(value) for size, value in zip(SIZES, lost, strict=True)}


def _resize(image: Image.Image, shorter: int) -> Image.Image:
    """Resize an image so that its shorter side has this many pixels."""
    scale = shorter / min(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _map(function: Callable[[Path], _Result], paths: Sequence[Path]) -> list[_Result]:
    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(function, paths))
