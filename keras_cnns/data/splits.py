"""Open the splits of a recipe's data set."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tensorflow as tf

from keras_cnns.data.class_balance import BalancedOrder, compute_weights, read_class_indices
from keras_cnns.data.pipeline import NO_AUGMENTATION, Part, Split, keep_in_memory, make_split
from keras_cnns.data.sources import open_source
from keras_cnns.data.sources.base import (
    ImageStream,
    IndexedImages,
    Pair,
    Source,
    fits_in_memory,
)
from keras_cnns.data.sources.folder.corrections import Corrections
from keras_cnns.data.sources.folds import Folds, Pool
from keras_cnns.recipes import AugmentationConfig, ClassBalanceConfig, DataConfig

_NO_BALANCE = ClassBalanceConfig()


class Splits:
    """The splits of a data set, each of which is read and decoded at most once.

    A command creates one object, and passes it or the opened splits to other functions. A split may
    be opened several times. The decoded images stay in memory as long as these objects. The rule
    "at most once" has these details:

    - A split whose images fit in memory (`base.PIXELS_LIMIT`) is decoded when its first batch is
      read, and its pixels are kept. A training decodes a larger split once in each epoch, because
      its order and its crops change.
    - If a TFDS data set has no validation split, this split is created from the training images by
      content. The first command that opens the training or the validation split reads all training
      images once, and keeps those that fit in memory. The division is cached for later commands.
    - The files of a folder's split are checked, as by `data check`. The results of a check are
      cached, so checking unchanged files again opens none of them. Files without a cached result
      are checked when the split is opened, and their images are kept if all images of the split fit
      in memory. If the images do not fit in memory, each file is checked when it is read for a
      batch. In two cases, a split that does not fit in memory is checked in a separate pass before
      the first batch: if it is opened for a training, and if the split depends on the hashes and
      near-duplicates of the images. See `sources.folder.source.Folder`.
    - An Inception crop needs the images in their original size. A training split with such a crop
      is therefore decoded in each epoch, and no pixels are kept.
    """

    def __init__(self, config: DataConfig) -> None:
        """Define the data set of a recipe; nothing is opened yet."""
        self._config = config
        self._kept: dict[str, Callable[[tf.Tensor], Pair]] = {}

    @functools.cached_property
    def _source(self) -> Source:
        return open_source(self._config)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, K of them, in the order of their indices."""
        return self._source.labels

    @property
    def corrections(self) -> Corrections | None:
        """The corrections of the labels; None if the recipe has none."""
        return self._source.corrections

    @property
    def pool(self) -> Pool:
        """The images that are divided into folds, for a recipe with `data.fold`."""
        if not isinstance(self._source, Folds):
            raise ValueError("the recipe has no data.fold")
        return self._source.pool

    def fingerprint(self) -> str:
        """Return a text that identifies the data: a hash, or a name and version.

        Raises:
            ValueError: there is no such data set, or `data check` finds errors in its folder.
        """
        return self._source.fingerprint()

    def open(
        self,
        split: str,
        *,
        batch_size: int,
        seed: int | None = None,
        augmentation: AugmentationConfig = NO_AUGMENTATION,
        class_balance: ClassBalanceConfig = _NO_BALANCE,
        one_hot: bool = False,
        in_memory: bool = True,
        check_first: bool = False,
        part: Part | None = None,
    ) -> Split:
        """Open a split, which can then be read epoch by epoch from any step.

        No batch is read yet, but a folder's files may be checked, and a training split may be
        divided by content.

        Args:
            split: a split's name, or a slice in TFDS' syntax, such as `train[:45000]`.
            batch_size: the number of images in a batch, N.
            seed: the seed of the order and the augmentation; None keeps the order and augments
                nothing.
            augmentation: the augmentation of the images.
            class_balance: the weights and the sampling of the classes; both are ignored if `seed`
                is None. With weights, targets are returned instead of labels.
            one_hot: return targets [N, K] instead of labels [N]; with augmentation that mixes
                labels, targets are always returned.
            in_memory: if True, keep the decoded images if they take at most `base.PIXELS_LIMIT`
                bytes; if False, decode each batch again. In both cases, images that the source has
                already kept are used.
            check_first: if True, check all files of a folder's split now, as a training does; if
                False, the files of a split that does not fit in memory are checked as they are
                read.
            part: the part of each batch that is read; by default the whole batch.

        Raises:
            ValueError: there is no such data set or split, the split is empty, or balanced sampling
                is requested for a data set that is read in the order of its files.
        """
        if seed is None:
            augmentation, class_balance = NO_AUGMENTATION, _NO_BALANCE
        keep_pixels = not augmentation.inception_crop
        images = self._source.open(split, check_first=check_first, keep_pixels=keep_pixels)
        if (
            isinstance(images, IndexedImages)
            and images.gather is None
            and in_memory
            and keep_pixels
            and fits_in_memory(self._config, images.count)
        ):
            gather = self._kept.setdefault(split, keep_in_memory(images, self._config))
            images = replace(images, gather=gather)
        return make_split(
            images,
            self._config,
            len(self.labels),
            batch_size=batch_size,
            seed=seed,
            augmentation=augmentation,
            one_hot=one_hot,
            part=part or Part(),
            **self._balance(images, class_balance),
        )

    def _balance(
        self, images: IndexedImages | ImageStream, config: ClassBalanceConfig
    ) -> dict[str, Any]:
        """Return the options of a `Split` that balance its classes."""
        if config.balanced_sampling and isinstance(images, ImageStream):
            raise ValueError(
                f"class_balance.balanced_sampling needs images that can be read in any order, but "
                f"{self._config.name} is read in the order of its files because it is large; use "
                'class_balance.weights = "inverse" instead'
            )
        if config.balanced_sampling:
            return {"order": BalancedOrder(read_class_indices(images))}
        if config.weights == "none":
            return {}
        indices, classes = read_class_indices(images), len(self.labels)
        return {"class_weights": compute_weights(indices, classes, config.weights, config.beta)}


def read_labels(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, K of them, in the order of their indices."""
    return Splits(config).labels


def fingerprint(config: DataConfig) -> str:
    """Return the fingerprint of a data set: a shortcut for `Splits(config).fingerprint()`."""
    return Splits(config).fingerprint()


def open_split(config: DataConfig, split: str, *, batch_size: int, **options: Any) -> Split:
    """Open a split: a shortcut for `Splits(config).open`, which describes `options` and errors."""
    return Splits(config).open(split, batch_size=batch_size, **options)


def load_split(
    config: DataConfig, split: str, *, batch_size: int, one_hot: bool = False
) -> tf.data.Dataset:
    """Return one pass over a split, in order, as batches of (uint8 [N, H, W, C], int64 [N]).

    Raises:
        ValueError: there is no such data set or split, or the split is empty.
    """
    return open_split(config, split, batch_size=batch_size, one_hot=one_hot).epoch(0)
