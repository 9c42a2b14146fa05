"""How often the files of a folder of images are opened and decoded: at most once per command."""

import ctypes
import io
import os
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnns.cli import app, run
from keras_cnns.data import Splits, decoding, folder, image_files, images, pipeline, read_labels
from keras_cnns.data.folder import FolderError
from keras_cnns.recipes import AugmentationConfig, DataConfig, Recipe, load_recipe
from keras_cnns.training import evaluate, train
from keras_cnns.training.find_rate import find_rate

SPLITS = ("train", "validation", "test")
CLASSES = ("cat", "dog")
KINDS = ("png", "jpg", "bmp", "webp")  # BMP is read by Pillow
RECIPE = load_recipe("digits-resnet20", ("training.epochs=1", "training.batch_size=4"))
OPENED, CLOSED = 0x20, 0x08 | 0x10  # IN_OPEN, IN_CLOSE_WRITE and IN_CLOSE_NOWRITE
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name

Take = Callable[[], Counter[str]]


def write_image(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (14, 10 + seed % 3, 3), np.uint8)
    kinds = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", "": "PNG"}
    image, file = Image.fromarray(pixels), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6 if path.suffix == ".jpg" else 1
    image.save(file, kinds[path.suffix], exif=exif)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of split folders, with an image of each kind of each class."""
    root = tmp_path / "photos"
    names = [f"{s}/{label}/1.{kind}" for s in SPLITS for label in CLASSES for kind in KINDS]
    for seed, name in enumerate(names):
        write_image(root / name, seed)
    return root


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder of classes, which is split by content."""
    root = tmp_path / "classes"
    for seed in range(60):
        write_image(root / CLASSES[seed % 2] / f"{seed:02}.{KINDS[seed % 4]}", seed)
    return root


def config_of(root: Path, **changes: object) -> DataConfig:
    grey = (128.0,) * 3
    return replace(DataConfig("folder", 8, 12, 3, grey, grey, path=str(root)), **changes)  # type: ignore[arg-type]


def recipe_of(root: Path) -> Recipe:
    return replace(RECIPE, data=config_of(root))


def files_of(root: Path, *splits: str) -> set[str]:
    """Return the paths of the files in some of a folder's own folders."""
    files = (path for split in splits for path in (root / split).rglob("*.*"))
    return {path.relative_to(root).as_posix() for path in files}


@pytest.fixture
def watch() -> Iterator[Callable[[Path], Take]]:
    """Count how often each file below a folder is opened, by whichever library.

    The function that is returned gives the counts since its last call.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux reports which files are opened")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())

    def begin(root: Path) -> Take:
        # Of equal events in succession one is reported; with the closing there are none.
        folders = {
            libc.inotify_add_watch(descriptor, os.fsencode(each), OPENED | CLOSED): each
            for each in root.rglob("*")
            if each.is_dir()
        }
        assert min(folders) >= 0, os.strerror(ctypes.get_errno())

        def take() -> Counter[str]:
            counts: Counter[str] = Counter()
            while True:
                try:
                    events = os.read(descriptor, 1 << 16)
                except BlockingIOError:
                    return counts
                while events:
                    number, mask, _, length = EVENT.unpack_from(events)
                    name = os.fsdecode(events[EVENT.size : EVENT.size + length].rstrip(b"\0"))
                    events = events[EVENT.size + length :]
                    if name and mask & OPENED and (path := folders[number] / name).is_file():
                        counts[path.relative_to(root).as_posix()] += 1

        return take

    yield begin
    os.close(descriptor)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each encoded image was decoded."""
    found: Counter[bytes] = Counter()

    def note(content: bytes | np.ndarray) -> bytes:
        """Count an image; TensorFlow passes its bytes as an array where it executes eagerly."""
        encoded: bytes = content if isinstance(content, bytes) else content.item()
        found[encoded] += 1
        return encoded

    decode, read_pixels = decoding.decode, images.read_pixels

    def counted(content: tf.Tensor) -> tf.Tensor:
        noted = tf.numpy_function(note, [content], tf.string)
        return decode(tf.ensure_shape(noted, ()))

    def counted_with_pillow(content: bytes, channels: int = 3) -> np.ndarray:
        return read_pixels(note(content), channels)

    for module in (decoding, folder):
        monkeypatch.setattr(module, "decode", counted)
    for module in (decoding, image_files):
        monkeypatch.setattr(module, "read_pixels", counted_with_pillow)
    return found


def collect(batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def contents(root: Path, names: set[str]) -> dict[bytes, int]:
    return {(root / name).read_bytes(): 1 for name in names}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_split_folder_is_read_alone_and_once(
    split: str, in_memory: bool, photos: Path, watch: Callable[[Path], Take],
    decoded: Counter[bytes],
) -> None:  # fmt: skip
    files = files_of(photos, split)
    expected = contents(photos, files)
    opened = watch(photos)
    splits = Splits(config_of(photos))
    assert splits.labels == CLASSES
    assert not opened()
    for _ in range(2):
        batches = splits.open(split, batch_size=3, in_memory=in_memory)
        assert batches.samples == len(files) == 8
        assert collect(batches.epoch(0))[1].tolist() == [0] * 4 + [1] * 4
    assert opened() == dict.fromkeys(files, 1)
    assert decoded == expected


def test_commands_open_each_file_of_their_splits_once(
    photos: Path, tmp_path: Path, watch: Callable[[Path], Take], decoded: Counter[bytes]
) -> None:
    recipe, run_directory = recipe_of(photos), tmp_path / "run"
    every = files_of(photos, *SPLITS)
    expected = contents(photos, every)
    opened = watch(photos)
    finished = train(recipe, run_directory)
    assert opened() == dict.fromkeys(every, 1)
    assert decoded == expected
    evaluate(finished)
    assert opened() == dict.fromkeys(files_of(photos, "test"), 1)
    evaluate(finished, "validation")
    assert opened() == dict.fromkeys(files_of(photos, "validation"), 1)
    assert run(app, ["report", str(run_directory)], "keras-cnns") == 0
    assert opened() == dict.fromkeys(files_of(photos, "test"), 1)
    image = str(photos / "test/cat/1.png")
    assert run(app, ["predict", str(run_directory), image], "keras-cnns") == 0
    assert opened() == {"test/cat/1.png": 1}
    find_rate(recipe, steps=10)
    assert opened() == dict.fromkeys(files_of(photos, "train"), 1)


def test_a_folder_without_split_folders_is_read_once(
    classes: Path, watch: Callable[[Path], Take], decoded: Counter[bytes]
) -> None:
    every = files_of(classes, *CLASSES)
    expected = contents(classes, every)
    opened = watch(classes)
    splits = Splits(config_of(classes))
    splits.fingerprint()
    found = [splits.open(split, batch_size=8) for split in SPLITS]
    assert sum(split.samples for split in found) == 60
    for split in (*found, *found):
        collect(split.epoch(0))
    assert opened() == dict.fromkeys(every, 1)
    assert decoded == expected


def test_a_split_that_is_taken_from_training_reads_the_training_folder(
    photos: Path, watch: Callable[[Path], Take]
) -> None:
    shutil.rmtree(photos / "test")
    for seed in range(100, 140):
        write_image(photos / "train" / CLASSES[seed % 2] / f"{seed}.png", seed)
    opened = watch(photos)
    config = config_of(photos)
    assert Splits(config).open("validation", batch_size=8).samples == 8
    assert opened() == dict.fromkeys(files_of(photos, "validation"), 1)
    assert Splits(config).open("test", batch_size=8).samples > 0
    assert opened() == dict.fromkeys(files_of(photos, "train"), 1)


def test_a_split_beyond_the_limit_is_read_once_by_the_check_and_in_each_epoch(
    photos: Path, watch: Callable[[Path], Take], decoded: Counter[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_image(photos / "train/cat/2.png", 100)  # one image too many
    monkeypatch.setattr(pipeline, "PIXELS_LIMIT", 8 * (8 * 8 * 3))
    opened = watch(photos)
    splits = Splits(config_of(photos))
    splits.fingerprint()
    training, *others = (splits.open(split, batch_size=4) for split in SPLITS)
    for number in range(2):
        for split in (training, *others):
            collect(split.epoch(number))
    train_files = files_of(photos, "train")
    counts = dict.fromkeys(train_files, 3) | dict.fromkeys(files_of(photos, *SPLITS[1:]), 1)
    assert opened() == counts
    assert decoded == {(photos / name).read_bytes(): count for name, count in counts.items()}


def test_pixels_that_the_check_kept_are_those_read_anew(
    photos: Path, classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jitter = AugmentationConfig(color_jitter=0.4, pad_and_crop=1)

    def read(root: Path, channels: int) -> list[np.ndarray]:
        grey = (1.0,) * channels
        splits = Splits(config_of(root, channels=channels, mean=grey, std=grey))
        found = (
            splits.open("train", batch_size=8),
            splits.open("test[2:5]", batch_size=8),
            splits.open("train", batch_size=8, seed=1, augmentation=jitter),
        )
        return [part for split in found for part in collect(split.epoch(1))]

    kept = read(photos, 3), read(classes, 1)
    monkeypatch.setattr(pipeline, "PIXELS_LIMIT", 0)
    for one, other in zip(kept, (read(photos, 3), read(classes, 1)), strict=True):
        for part, anew in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, anew)


def test_what_is_wrong_with_another_split_stops_the_training_only(photos: Path) -> None:
    (photos / "train/cat/cut.png").write_bytes(b"no image")
    shutil.copy(photos / "train/cat/1.png", photos / "test/cat/copy.png")
    config = config_of(photos)
    assert Splits(config).open("test", batch_size=8).samples == 9
    assert Splits(config).open("validation", batch_size=8).samples == 8
    for open_splits in (
        lambda splits: splits.fingerprint(),
        lambda splits: [splits.open(name, batch_size=8) for name in ("test", "train")],
    ):
        with pytest.raises(FolderError) as error:
            open_splits(Splits(config))
        assert "unreadable files (1): train/cat/cut.png" in str(error.value)
        assert "in different splits (1): test/cat/copy.png = train/cat/1.png" in str(error.value)
    with pytest.raises(FolderError, match="unreadable files"):
        Splits(config).open("train[:2]", batch_size=2)
    # Which copy is left out, and so which classes there are, depends on all splits.
    skipping = Splits(replace(config, skip_bad=True))
    assert [skipping.open(name, batch_size=8).samples for name in SPLITS] == [7, 8, 9]


def test_a_split_folder_of_bad_files_alone_is_replaced_from_training(photos: Path) -> None:
    for name in files_of(photos, "validation"):
        (photos / name).write_bytes(b"no image")
    splits = Splits(config_of(photos, skip_bad=True))
    sizes = {split: len(collect(splits.open(split, batch_size=8).epoch(0))[1]) for split in SPLITS}
    assert sizes["test"] == 8
    assert sizes["validation"] > 0
    assert sizes["train"] + sizes["validation"] == 8


def test_a_class_is_a_folder_with_an_image_whatever_its_name(
    photos: Path, watch: Callable[[Path], Take]
) -> None:
    for seed, split in enumerate(SPLITS):
        for number in range(3):
            write_image(photos / split / "owl" / str(number), 100 + 10 * seed + number)
        (photos / split / "notes").mkdir()
        (photos / split / "notes/1.txt").write_text("no image")
    opened = watch(photos)
    assert read_labels(config_of(photos)) == (*CLASSES, "owl")
    assert opened() == {
        name: 1 for split in SPLITS for name in (f"{split}/owl/0", f"{split}/notes/1.txt")
    }
    assert Splits(config_of(photos)).open("test", batch_size=8).samples == 11


def test_a_split_that_is_missing_is_an_error_without_reading(
    photos: Path, watch: Callable[[Path], Take]
) -> None:
    opened = watch(photos)
    with pytest.raises(ValueError, match="there is no split 'holdout', or nothing in it: there is"):
        Splits(config_of(photos)).open("holdout", batch_size=8)
    assert not opened()
