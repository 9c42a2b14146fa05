"""Golden samples: images and their probabilities, with which a server checks a loaded version.

A format that agrees with Keras on the exporting machine may disagree on the serving machine,
because int8 kernels differ between CPUs. The server therefore predicts these images with the
format, precision and number of threads that it is about to use, and compares the probabilities with
those of Keras in float32.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_cnns_export.batches import Array
from keras_cnns_export.contract import GOLDEN, Golden

_MAX_IMAGES = 8
_MAX_BYTES = 2**20  # maximum size of the file, unless a single image is larger
# The samples are chosen from the candidates, which are the first images of the comparison. This is
# the maximum number of candidates.
_CANDIDATES = 64
# The maximum memory for the candidates, in bytes. If images are large, there are fewer candidates.
_MAX_CANDIDATE_BYTES = 2**26
# The margin of an image is the difference of its two highest probabilities. For each
# format and each class, take the difference between the format's probability and Keras' one. The
# image is robust if its margin is larger than `_ROBUST` times the largest of these differences.
_ROBUST = 4


class GoldenSamples:
    """Collect the first images of the comparison of the formats, and choose a few of them.

    Args:
        shape: height, width and channels of an image.
        classes: K, the number of classes.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        self._dtype = np.dtype([("image", "u1", shape), ("probabilities", "<f4", (classes,))])
        size = self._dtype.itemsize
        self._count = max(1, min(_MAX_IMAGES, _MAX_BYTES // size))
        self._max_candidates = max(self._count, min(_CANDIDATES, _MAX_CANDIDATE_BYTES // size))
        self._rows: list[Array] = []
        self._differences: list[dict[str, float]] = []  # for each candidate: format -> difference

    def add(self, images: Array, expected: Array, given: Mapping[str, Array]) -> None:
        """Add images of a batch to the candidates until there are enough candidates.

        Args:
            images: uint8 [N, H, W, C].
            expected: Keras' probabilities, float32 [N, K].
            given: format name -> probabilities [N, K].
        """
        for index in range(min(len(images), self._max_candidates - len(self._rows))):
            row = np.zeros((), self._dtype)
            row["image"], row["probabilities"] = images[index], expected[index]
            self._rows.append(row)
            self._differences.append(
                {
                    name: float(np.abs(values[index] - expected[index]).max())
                    for name, values in given.items()
                }
            )

    def write(self, version: Path) -> Golden:
        """Write the chosen images to `version`/golden.npy and return model.json's entry."""
        chosen = self._chosen()
        np.save(version / GOLDEN, np.stack([self._rows[index] for index in chosen]))
        formats = self._differences[0]
        largest = {name: max(self._differences[i][name] for i in chosen) for name in formats}
        # Because of rounding, the difference of two probabilities can be slightly larger than 1.
        limited = {name: min(value, 1.0) for name, value in largest.items()}
        return Golden(GOLDEN, len(chosen), limited)

    def _chosen(self) -> list[int]:
        """Return the indices of the chosen candidates.

        Robust images, for which no format is close to predicting another class, precede all others.
        Among the robust images, every predicted class gets one image before a class gets a second
        one. Within a class, images whose two highest probabilities differ by about 0.5 are
        preferred, because errors of a format hardly change probabilities near 1.
        """
        scores: list[tuple[int, float]] = []
        classes: list[int] = []
        for row, differences in zip(self._rows, self._differences, strict=True):
            second, first = np.sort(np.append(row["probabilities"], 0.0))[-2:]
            margin = float(first - second)
            slack = margin - _ROBUST * max(differences.values(), default=0.0)
            scores.append((0, abs(margin - 0.5)) if slack > 0 else (1, -slack))
            classes.append(int(row["probabilities"].argmax()))
        seen: Counter[int] = Counter()
        ranked: list[tuple[int, tuple[int, float], int]] = []  # rank in its class, score, index
        for index in sorted(range(len(scores)), key=scores.__getitem__):
            is_robust = scores[index][0] == 0
            rank = seen[classes[index]] if is_robust else len(scores)
            ranked.append((rank, scores[index], index))
            seen[classes[index]] += 1
        return [index for *_, index in sorted(ranked)[: self._count]]
