"""From a data set's name and a split's to batches."""

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from keras_cnns.data import idx, shapes, tfds_samples
from keras_cnns.data.by_content import divide_training, open_tfds_samples
from keras_cnns.data.folder import Folder
from keras_cnns.data.pipeline import NO_AUGMENTATION, Decoded, Split
from keras_cnns.data.samples import Samples, Stream
from keras_cnns.recipes import AugmentationConfig, DataConfig


class Splits:
    """The splits of a data set, each read and decoded at most once, however often it is opened.

    A command makes one object and passes it, or the splits that it opened, along. The decoded
    images are released with them. "Once" means that a command makes no pass over a split besides
    those that its work consists of:

    - A split whose images fit in memory is decoded at its first batch and kept (see `Split`). A
      training decodes a larger one once in each epoch, as its order and its crops change.
    - A validation split that a TFDS data set does not have is taken out of the training split by
      content. This needs a pass over the training images when one of the two is opened; images
      that fit in memory are kept from it.
    - The files of a folder's split are checked, as by `data check`. Images that fit in memory are
      checked when the split is opened, and kept. Those of a larger split are checked as they are
      read for the batches; only a training checks them first, which is a pass of its own. A larger
      split that depends on the content of the images is opened once more, for their hashes: these
      decide which images are in it, before the first one is decoded. See `Folder`.
    - An Inception crop needs the images at their own size, so a training split with one is decoded
      in each epoch, and no pixels of it are kept.
    """

    def __init__(self, config: DataConfig) -> None:
        """Give access to the data set of a recipe."""
        self._config = config
        self._decoded: dict[str, Decoded] = {}
        # Only the recipe's splits: another one would take images out of the training split.
        specs = (config.train_split, config.validation_split, config.test_split)
        self._wanted = sorted(
            {part.strip().partition("[")[0] for spec in specs for part in spec.split("+")}
        )

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, K of them, in the order of their numbers."""
        config = self._config
        if config.name == "folder":
            return self._folder.labels()
        if config.name == "shapes":
            return tuple(shapes.FIGURES)
        if config.name == "idx":
            return idx.read_set(config.path).names
        return tfds_samples.read_labels(config.name)

    def fingerprint(self) -> str:
        """Return what tells one state of a data set from another: a hash, or a name and version.

        Raises:
            ValueError: there is no such data set, or `data check` finds that its folder is bad.
        """
        config = self._config
        if config.name == "folder":
            return f"sha256:{self._folder.fingerprint()}"
        if config.name == "shapes":
            return f"shapes of {config.image_size} pixels, {config.num_examples} samples"
        if config.name == "idx":
            return f"sha256:{idx.read_set(config.path).fingerprint}"
        info = tfds_samples.open_builder(config.name).info
        counts = {name: split.num_examples for name, split in info.splits.items()}
        return f"{info.full_name} {json.dumps(counts)}"

    def open(
        self,
        split: str,
        *,
        batch_size: int,
        seed: int | None = None,
        augmentation: AugmentationConfig = NO_AUGMENTATION,
        one_hot: bool = False,
        in_memory: bool = True,
        check_first: bool = False,
    ) -> Split:
        """Open a split, to be read epoch by epoch from any step.

        No batch is read yet, but a folder's files may be checked, and a training split may be
        divided by content.

        Args:
            split: a split's name, or TFDS' slicing of one, as `train[:45000]`.
            batch_size: images in a batch.
            seed: of the order and the augmentation; None keeps the order and augments nothing.
            augmentation: of the images.
            one_hot: give targets [N, K], not labels [N]; augmentation that mixes labels always
                does.
            in_memory: keep the decoded images, if they are small enough; see `Split`.
            check_first: check all files of a folder's split now, as a training does; if False,
                those of a split that does not fit in memory are checked as they are read.

        Raises:
            ValueError: there is no such data set or split, or the split is empty.
        """
        is_kept = seed is None or not augmentation.inception_crop
        return Split(
            self._open_samples(split, check_first, is_kept),
            self._config,
            len(self.labels),
            batch_size=batch_size,
            seed=seed,
            augmentation=augmentation,
            one_hot=one_hot,
            decoded=self._decoded.setdefault(split, Decoded()),
            in_memory=in_memory,
        )

    def _open_samples(self, split: str, check_first: bool, is_kept: bool) -> Samples | Stream:
        config = self._config
        if config.name == "folder":
            return self._folder.open(split, check_first=check_first, is_kept=is_kept)
        if config.name == "shapes":
            return shapes.open_samples(split, config.num_examples, config.resize_shorter)
        if config.name == "idx":
            return idx.open_samples(config.path, split)

        def divide() -> Mapping[str, Samples]:
            name = split.partition("[")[0].strip()
            if not is_kept:
                whole = replace(self._divided[name], decoded=None)
                self._divided = {**self._divided, name: whole}
            return self._divided

        return open_tfds_samples(config.name, split, self._wanted, divide)

    @functools.cached_property
    def _folder(self) -> Folder:
        return Folder(self._config, self._wanted)

    @functools.cached_property
    def _divided(self) -> Mapping[str, Samples]:
        return divide_training(self._config)


def read_labels(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, K of them, in the order of their numbers."""
    return Splits(config).labels


def fingerprint(config: DataConfig) -> str:
    """Return the fingerprint of a data set that nothing else reads; see `Splits.fingerprint`."""
    return Splits(config).fingerprint()


def open_split(config: DataConfig, split: str, *, batch_size: int, **options: Any) -> Split:
    """Open a split that nothing else reads; `options` and errors are those of `Splits.open`."""
    return Splits(config).open(split, batch_size=batch_size, **options)


def load_split(
    config: DataConfig, split: str, *, batch_size: int, one_hot: bool = False
) -> tf.data.Dataset:
    """Return a split, once through and as it is, as batches of (uint8 [N, H, W, C], int64 [N]).

    Raises:
        ValueError: there is no such data set or split, or the split is empty.
    """
    return open_split(config, split, batch_size=batch_size, one_hot=one_hot).epoch(0)
