"""Group near-duplicates: the same picture saved again, a little cropped, brighter or noisier.

The mean of each thumbnail is subtracted. Two images are near-duplicates if the cosine similarity of
the resulting vectors is at least `_MIN_COSINE`. Brightness and contrast therefore do not matter.
Among the 70,000 images of Fashion-MNIST, which are all different, 172 (0.25 %) have such a
near-duplicate.

Images of one colour are in no group. After subtraction of its mean, the thumbnail of such an image
is zero or noise. Any two such images might therefore be grouped: for example, all black frames in a
folder would form a group.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_cnns.data.sources.folder.appearance import FLAT_DEVIATION, SIDE
from keras_cnns.data.sources.folder.cache import FolderCache
from keras_cnns.data.sources.folder.image_file import ImageFile

_MIN_COSINE = 0.998
# Maximum number of images in a group; without it, a chain A ~ B ~ C ~ ... may connect different
# images.
MAX_GROUP = 20
_ROWS, _COLUMNS = 1024, 4096  # the matrix of all cosines is computed in blocks of this size
# Maximum rounding error of a cosine, which is a sum of 256 products in float32. The minimum cosine
# is lowered by this error to find candidates, which are then compared exactly.
_SLACK = 1e-5


def group_near_duplicates(thumbnails: np.ndarray) -> np.ndarray:
    """Return the smallest index in each image's group, int64 [N].

    An image without a group has its own index.

    The closest pairs are joined first. Groups are not joined if the result would exceed `MAX_GROUP`
    images. If an image has more than `MAX_GROUP` near-duplicates, only the first ones are
    considered, so that the cost is bounded even for the frames of a film.

    Args:
        thumbnails: uint8 [N, P], the thumbnails of images without copies, in an order that depends
            on the images alone.
    """
    pairs, cosines = _near_pairs(thumbnails)
    parents, sizes = np.arange(len(thumbnails)), np.ones(len(thumbnails), int)

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = index = parents[parents[index]]
        return index

    for first, second in pairs[np.lexsort((*pairs.T[::-1], -cosines))].tolist():
        one, other = sorted((root(first), root(second)))
        if one != other and sizes[one] + sizes[other] <= MAX_GROUP:
            parents[other] = one
            sizes[one] += sizes[other]
    return np.array([root(index) for index in range(len(thumbnails))], np.int64)


def _near_pairs(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of near-duplicates, int64 [M, 2], smaller index first, and their cosines.

    The distance of unit vectors with cosine c is sqrt(2 - 2c), and their projections on any
    direction differ by at most this distance. The images are therefore sorted by their projection
    on the direction of largest variance, and each image is compared only with the images in a
    window around it.
    """
    kept = np.flatnonzero(thumbnails.std(axis=1, dtype=np.float32) >= FLAT_DEVIATION)
    if not len(kept):
        return np.empty((0, 2), np.int64), np.empty(0)
    vectors = thumbnails[kept].astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = vectors - vectors.mean(axis=0)
    projections = vectors @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
    order = np.argsort(projections)
    found = [
        np.sort(kept[order[pairs]], axis=1)
        for pairs in _pairs_in_windows(vectors[order], projections[order])
    ]
    candidates = np.concatenate(found)
    cosines = _exact_cosines(thumbnails, candidates)
    near = cosines >= _MIN_COSINE
    return candidates[near], cosines[near]


def _pairs_in_windows(vectors: np.ndarray, projections: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs of candidates, int64 [M, 2], with the smaller index first.

    Args:
        vectors: unit vectors, float32 [N, P].
        projections: float32 [N], ascending.
    """
    reach = (2 - 2 * (_MIN_COSINE - _SLACK)) ** 0.5 + _SLACK
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS]
        counts = np.zeros((len(rows), 1), int)  # number of candidates of each row
        end = int(np.searchsorted(projections, projections[start + len(rows) - 1] + reach, "right"))
        for column in range(start, end, _COLUMNS):
            cosines = rows @ vectors[column : min(column + _COLUMNS, end)].T
            # The upper triangle contains each pair once.
            near = np.triu(cosines >= _MIN_COSINE - _SLACK, start - column + 1)
            added = near.sum(axis=1, keepdims=True)
            if (counts + added).max() > MAX_GROUP:
                near &= counts + near.cumsum(axis=1, dtype=np.int32) <= MAX_GROUP
            first, second = np.divmod(np.flatnonzero(near), near.shape[1])
            yield np.stack([first + start, second + column], axis=1)
            counts += added
            if counts.min() > MAX_GROUP:
                break


def _exact_cosines(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the cosines of pairs of centred thumbnails, float64 [M], equal on every machine."""

    def centred(indices: np.ndarray) -> np.ndarray:
        levels = thumbnails[indices].astype(np.int64)
        centred: np.ndarray = levels * levels.shape[1] - levels.sum(axis=1, keepdims=True)
        return centred

    def products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        # The sum is below 2^40, so there is no overflow and no rounding.
        product: np.ndarray = (one * other).sum(axis=1)
        return product

    cosines = []
    for start in range(0, len(pairs), _COLUMNS):
        one, other = (centred(pairs[start : start + _COLUMNS, side]) for side in (0, 1))
        squares = products(one, one).astype(float) * products(other, other).astype(float)
        cosines.append(products(one, other) / np.sqrt(squares))
    return np.concatenate(cosines) if cosines else np.empty(0)


def with_near_duplicates(
    root: str | Path,
    files: Iterable[ImageFile],
    folders: Sequence[str | None] = (None, "train", "validation", "test"),
) -> tuple[ImageFile, ...]:
    """Return the files, and set the field `near` of each file that has near-duplicates.

    Args:
        root: the folder that contains the files; it determines which cache is used.
        files: any files; files that were not decoded have no near-duplicates.
        folders: the split folders whose files are compared, with None for files without a split
            folder.
    """
    files = tuple(files)
    compared = [file for file in files if file.split in folders]
    thumbnails = {file.digest: file.appearance.thumbnail for file in compared if file.appearance}
    digests = sorted(thumbnails)

    def compute() -> np.ndarray:
        levels = np.frombuffer(b"".join(map(thumbnails.__getitem__, digests)), np.uint8)
        return group_near_duplicates(levels.reshape(len(digests), SIDE * SIDE))

    groups = FolderCache(root, entries=False).group(digests, compute)
    grouped = np.bincount(groups, minlength=len(groups)) > 1
    near = {digests[index]: digests[groups[index]] for index in np.flatnonzero(grouped[groups])}

    def nearest(file: ImageFile) -> str:
        return near.get(file.digest, "") if file.split in folders else ""

    return tuple(
        file if file.near == nearest(file) else replace(file, near=nearest(file)) for file in files
    )
