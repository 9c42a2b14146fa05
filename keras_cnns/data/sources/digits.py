"""The built-in `digits`: 1,797 handwritten digits as a TFDS builder, without a download."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

_PERCENTAGES = {"train": 70, "validation": 10, "test": 20}  # split -> % of each class


class Digits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's digits, enlarged from 8x8 to 32x32, in fixed splits stratified by class."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 - TFDS reads this name and type

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="The test part of a UCI set of handwritten digits, written by 13 persons.",
            homepage="https://archive.ics.uci.edu/dataset/80",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(32, 32, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in _PERCENTAGES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        splits = assign_splits(labels)
        for index in np.flatnonzero(splits == split):
            yield int(index), {"image": enlarge(images[index]), "label": int(labels[index])}


def assign_splits(labels: np.ndarray) -> np.ndarray:
    """Return the split of each image, stratified by class: labels [N] -> names [N].

    The images of a class are first permuted in a fixed way, because neighbouring images in the file
    were written by the same person, and each person's images should be in all splits.
    """
    splits = np.empty(len(labels), dtype=object)
    generator = np.random.default_rng(0)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        edges = (np.cumsum(list(_PERCENTAGES.values()))[:-1] * len(members)) // 100
        for split, part in zip(_PERCENTAGES, np.split(members, edges), strict=True):
            splits[part] = split
    return splits


def enlarge(image: np.ndarray) -> np.ndarray:
    """Return an 8x8 digit with levels 0 to 16 as uint8 [32, 32, 1] with levels 0 to 255."""
    small = Image.fromarray(np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8))
    return np.asarray(small.resize((32, 32), Image.Resampling.BILINEAR))[..., np.newaxis]
