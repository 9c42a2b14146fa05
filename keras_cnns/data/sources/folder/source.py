"""A folder of images as a source: a folder for each class, with or without split folders."""

import functools
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_cnns.data.decoding import decode, decode_with_pillow, set_upright
from keras_cnns.data.preprocessing import preprocess
from keras_cnns.data.sources.base import (
    Contents,
    IndexedImages,
    Pair,
    fits_in_memory,
    slice_split,
    splits_in_recipe,
)
from keras_cnns.data.sources.folder.corrections import Corrections, read_corrections
from keras_cnns.data.sources.folder.files import (
    Scan,
    find_images,
    inspect_file,
    list_images,
    no_images,
    read_images,
    recall_images,
)
from keras_cnns.data.sources.folder.findings import (
    Finding,
    describe,
    find_problems,
    find_split_problems,
    printable,
)
from keras_cnns.data.sources.folder.image_file import ImageFile
from keras_cnns.data.sources.folder.layout import FoundFile, read_layout
from keras_cnns.data.sources.folder.near_duplicates import with_near_duplicates
from keras_cnns.data.sources.folder.splits import assign_splits, held_out_splits
from keras_cnns.recipes import DataConfig


class FolderError(ValueError):
    """The folder cannot be used for training; the message lists the findings of `data check`."""


class Folder:
    """The images of a folder. A check reads, hashes and decodes each file at most once.

    The names of the classes are the names of their folders. When a split is opened, the files of
    its split folder are checked. A split without a folder is created from the training files, so
    the training files are checked. All files are checked if

    - there are no split folders, because the splits then depend on the content of all images;
    - `skip_bad` is set, because the copies in all splits determine which copy of an image is left
      out;
    - the fingerprint is requested. Every training requests the fingerprint, and therefore stops for
      every error that `data check` reports.

    The result of a check is cached by path, size and times (`cache.py`). If all files of a split
    folder are cached (or, without split folders, all files of the folder), the check opens no file.
    The files of a split are then opened when its images are used.

    If some of these files are not cached, the check reads the files. If the images of the split
    folder take at most `base.PIXELS_LIMIT` bytes at the network's size, the check keeps the pixels,
    and no file is opened again. If they take more, or if the recipe has an Inception crop, no
    pixels are kept, and every pass over the split reads and decodes its files again.

    If the images of a split folder exceed `base.PIXELS_LIMIT`, each file is checked when a batch
    needs it, unless a training requests the check first. Before the first batch, only files without
    an image's suffix are opened, to find out whether they are images. Copies are then not found,
    because the hashes of the files are unknown. (A training finds them, because it checks first.)
    If a split depends on the content of the images, all files that may belong to it are checked
    first, because their hashes and near-duplicates determine which images are in it.

    A slice of a split contains about the same fraction of each class, the files in the order of
    their paths.
    """

    def __init__(self, config: DataConfig) -> None:
        """List the files of a folder.

        Args:
            config: the folder, its splits, the images' size, and whether to leave out bad files.

        Raises:
            ValueError: there is no such folder, it has no class, its layout is unclear, or there is
                something wrong with the corrections.
        """
        self._config, self._wanted = config, splits_in_recipe(config)
        layout = read_layout(config.path)
        self.corrections: Corrections | None = None
        if config.corrections:
            self.corrections = read_corrections(config.corrections, config.path, layout.files)
            layout = replace(layout, files=self.corrections.apply(layout.files))
        self._found = layout.files
        self._listed = list_images(layout)
        if not self._listed:
            raise no_images(config.path, layout)
        self._held_out = held_out_splits(self._listed, self._wanted)
        # The keys of the following dicts are the splits of split folders, or None in a folder
        # without split folders.
        self._read: dict[str | None, tuple[ImageFile, ...]] = {}
        self._kept: dict[str | None, tuple[tf.Tensor, dict[Path, int]]] = {}  # pixels, file -> row
        self._undecoded: set[str | None] = set()  # keys of `_read` whose files are not decoded yet
        self._usable: tuple[ImageFile, ...] = ()  # result of `_files`, until more files are read

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in the order of their indices, which is alphabetical.

        Raises:
            FolderError: there are too few classes, or the name of a class cannot be used.
        """
        return _labels(self._files([]))

    def fingerprint(self) -> str:
        """Return a hash of all files' relative paths and contents, and of the corrected labels.

        Raises:
            FolderError: there is something wrong with the files or classes.
        """
        lines = (
            f"{file.path.relative_to(self._config.path).as_posix()} {file.digest}"
            f"{self._describe_correction(file)}\n"
            for file in self._files({file.split for file in self._listed})
        )
        return f"sha256:{hashlib.sha256(os.fsencode(''.join(lines))).hexdigest()}"

    def open(self, split: str, *, check_first: bool, keep_pixels: bool) -> IndexedImages:
        """Return a split's images; see `Source.open`.

        Raises:
            FolderError: there is something wrong with the files that had to be read or with the
                classes; or a class has no training images, or too few images for all splits.
            ValueError: there is no such split, or it is empty.
        """
        name = split.partition("[")[0].strip()
        folder: str | None = "train" if name in self._held_out else name
        if all(file.split is None for file in self._listed):
            folder = None
        files = self._files([folder], check_first=check_first)
        wanted = self._wanted
        # No split is created from the training files, because they were not read.
        if not {"train", None} & self._read.keys():
            wanted = tuple(each for each in wanted if each not in self._held_out)
        _refuse(self._config.path, find_split_problems(files, wanted))
        splits = assign_splits(files, wanted)
        counts = {each: len(members) for each, members in splits.items()}
        name, start, stop = slice_split(counts, split)
        members = splits[name]
        if (start, stop) != (0, len(members)):
            members = _stratified(members)[start:stop]
        if not keep_pixels:
            self._release(members)
        images = self._open_members(members, _labels(files))
        return replace(
            images,
            path_of=lambda index: members[index].path,
            contents=lambda: self._contents(members),
        )

    def _contents(self, members: Sequence[ImageFile]) -> Contents:
        """Return the `Contents` of some files; compare them with the files of all split folders."""
        grouped = with_near_duplicates(self._config.path, self._usable)
        keys = {file.path: file.content for file in grouped}
        indices = {label: index for index, label in enumerate(_labels(self._usable))}
        return Contents(
            tuple(keys[file.path] for file in members),
            np.array([indices[file.label] for file in members], np.int64),
        )

    def _describe_correction(self, file: ImageFile) -> str:
        is_corrected = self.corrections and file.path in self.corrections.labels
        return f" {file.label}" if is_corrected else ""

    def _files(
        self, folders: Iterable[str | None], *, check_first: bool = True
    ) -> tuple[ImageFile, ...]:
        """Return all files, with the results of reading for the folders that were read."""
        config = self._config
        if config.skip_bad:
            folders, check_first = {file.split for file in self._listed}, True
        for folder in folders:
            if folder not in self._read or (check_first and folder in self._undecoded):
                self._usable = ()
                self._read[folder] = self._read_folder(folder, check_first)
        if not self._usable:
            unread = (file for file in self._listed if file.split not in self._read)
            read = (file for files in self._read.values() for file in files)
            files = tuple(sorted((*read, *unread), key=lambda file: file.path.parts))
            scan = Scan(Path(config.path), files)
            if config.skip_bad:
                scan = _without_bad_files(scan)
            _refuse(config.path, find_problems(scan))
            self._usable = scan.files
        return self._usable

    def _read_folder(self, folder: str | None, check_first: bool) -> tuple[ImageFile, ...]:
        """Read the files of a split folder, unless all of them are cached."""
        found = [file for file in self._found if file.split == folder]
        is_divided = folder is None or (folder == "train" and bool(self._held_out))
        self._undecoded.discard(folder)
        files = recall_images(self._config.path, found)
        if files is None:
            if fits_in_memory(self._config, len(found)):
                files = self._read_and_keep(folder, found)
            elif check_first or is_divided:
                files = read_images(self._config.path, found)
            else:
                self._undecoded.add(folder)
                files = find_images(found)
        return with_near_duplicates(self._config.path, files) if is_divided else files

    def _read_and_keep(
        self, folder: str | None, found: Sequence[FoundFile]
    ) -> tuple[ImageFile, ...]:
        """Read the files of a split folder, and keep their pixels."""
        config = self._config
        rows = {file.path: row for row, file in enumerate(found)}
        # The system allocates the memory of this array only as it is filled.
        pixels = np.empty(
            (len(found), config.image_size, config.image_size, config.channels), np.uint8
        )

        def keep(path: Path, image: tf.Tensor) -> None:
            with tf.device("CPU"):
                pixels[rows[path]] = self._preprocess(image)

        files = read_images(config.path, found, keep)
        with tf.device("CPU"):
            self._kept[folder] = tf.constant(pixels), rows
        return files

    @functools.cached_property
    def _preprocess(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The preprocessing, as a function that is traced once for images of any size."""
        return tf.function(  # type: ignore[no-any-return]
            lambda image: preprocess(image, self._config.preprocessing()),
            input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
            autograph=False,
        )

    def _release(self, members: Sequence[ImageFile]) -> None:
        """Release the pixels of the given files, all of which are in one split folder."""
        folder = members[0].split
        if folder not in self._kept:
            return
        pixels, rows = self._kept.pop(folder)
        released = {file.path for file in members}
        remaining = {path: row for path, row in rows.items() if path not in released}
        if remaining:
            with tf.device("CPU"):
                others = tf.gather(pixels, list(remaining.values()))
            self._kept[folder] = others, {path: row for row, path in enumerate(remaining)}

    def _open_members(self, members: Sequence[ImageFile], labels: Sequence[str]) -> IndexedImages:
        """Return the images of the given files, all of which are in one split folder."""
        folder = members[0].split
        indices = {label: index for index, label in enumerate(labels)}
        with tf.device("CPU"):
            classes = tf.constant([indices[file.label] for file in members], tf.int64)
        if folder in self._undecoded:
            return self._check_as_read(members, classes)
        read = _reader(members, classes)
        pixels, rows = self._kept.get(folder, (None, {}))
        if any(file.path not in rows for file in members):
            return IndexedImages(len(members), read)
        with tf.device("CPU"):
            chosen = tf.constant([rows[file.path] for file in members], tf.int64)

        def gather(indices: tf.Tensor) -> Pair:
            return tf.gather(pixels, tf.gather(chosen, indices)), tf.gather(classes, indices)

        return IndexedImages(len(members), read, gather)

    def _check_as_read(self, members: Sequence[ImageFile], classes: tf.Tensor) -> IndexedImages:
        """Return the images of files that are not decoded yet; reading a file checks it."""
        root, files, checked = self._config.path, self._usable, dict[Path, ImageFile]()

        def check(index: np.ndarray) -> np.ndarray:
            listed, pixels = members[int(index)], list[tf.Tensor]()
            with tf.device("CPU"):
                file = inspect_file(listed.found, lambda _, image: pixels.append(image))
            checked[listed.path] = file or replace(listed, problem="no longer an image")
            if not pixels:
                raise ValueError(f"{listed.path}: {checked[listed.path].problem}")
            return np.asarray(pixels[0])

        def read(index: tf.Tensor) -> Pair:
            image = tf.numpy_function(check, [index], tf.uint8, stateful=False)
            return tf.ensure_shape(image, (None, None, 3)), classes[index]

        def check_rest() -> None:
            rest = [file.found for file in members if file.path not in checked]
            inspected = checked | {file.path: file for file in read_images(root, rest)}
            every = tuple(inspected.get(file.path, file) for file in files)
            _refuse(root, find_problems(Scan(Path(root), every)))

        return IndexedImages(len(members), read, check_rest=check_rest)


def _reader(members: Sequence[ImageFile], classes: tf.Tensor) -> Callable[[tf.Tensor], Pair]:
    """Return a function that takes the index of a checked file, and returns image and label."""
    with tf.device("CPU"):
        paths = tf.constant([os.fsencode(file.path) for file in members])
        orientations = tf.constant([file.orientation for file in members])
        by_pillow = tf.constant([file.needs_pillow for file in members])
    all_upright = all(file.orientation == 1 for file in members)
    all_fast = not any(file.needs_pillow for file in members)

    def read(index: tf.Tensor) -> Pair:
        content = tf.io.read_file(paths[index])

        def decode_fast() -> tf.Tensor:
            image = decode(content)
            return image if all_upright else set_upright(image, orientations[index])

        if all_fast:
            return decode_fast(), classes[index]
        image = tf.cond(by_pillow[index], lambda: decode_with_pillow(content), decode_fast)
        return image, classes[index]

    return read


def _labels(files: Iterable[ImageFile]) -> tuple[str, ...]:
    return tuple(sorted({file.label for file in files}))


def _without_bad_files(scan: Scan) -> Scan:
    reasons = {
        file.path: file.problem or finding.title
        for finding in find_problems(scan)
        for file in finding.to_skip
    }
    for path, reason in reasons.items():
        _report_skipped(path, reason)
    files = tuple(file for file in scan.files if file.path not in reasons)
    if not files:
        raise FolderError(f"none of the {len(scan.files)} files in {scan.root} can be used")
    return replace(scan, files=files)


def _stratified(files: Sequence[ImageFile]) -> list[ImageFile]:
    """Return files in an order of which each part has about the same fraction of each class."""
    counts, seen = Counter(file.label for file in files), Counter[str]()
    positions = {}
    for file in files:
        positions[file.path] = (seen[file.label] + 0.5) / counts[file.label]
        seen[file.label] += 1
    return sorted(files, key=lambda file: positions[file.path])


@functools.cache
def _report_skipped(path: Path, reason: str) -> None:
    """Print that a file is left out, but only once, even if the folder is opened for many folds."""
    print(f"skipped {printable(str(path))}: {reason}", file=sys.stderr)


def _refuse(root: str | Path, findings: Iterable[Finding]) -> None:
    """Raise FolderError if one of the findings is an error."""
    errors = [finding for finding in findings if finding.is_error and finding.lines]
    if not errors:
        return
    hint = (
        ". Repair or remove the files, or leave them out with data.skip_bad = true in the recipe "
        "or with `train --skip-bad`"
        if any(finding.to_skip for finding in errors)
        else ""
    )
    raise FolderError(f"{root} cannot be used: {'. '.join(map(describe, errors))}{hint}")
