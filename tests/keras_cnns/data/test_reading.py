"""How often the files of a folder of images are opened and decoded: at most once per command."""

import ctypes
import io
import os
import shutil
import struct
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnns.cli import app, run
from keras_cnns.cores import available_cores
from keras_cnns.data import (
    Splits,
    decoding,
    fingerprint,
    images,
    open_split,
    pipeline,
    preprocess,
    read_image,
    read_labels,
)
from keras_cnns.data.sources import base, cache
from keras_cnns.data.sources.folder import Folder, FolderError
from keras_cnns.data.sources.folder import files as folder_files
from keras_cnns.data.sources.folder import source as folder_source
from keras_cnns.models import resnet
from keras_cnns.recipes import AugmentationConfig, DataConfig, Recipe, load_recipe
from keras_cnns.report import run_report
from keras_cnns.training import Run, evaluate, train
from keras_cnns.training.dry_run import estimate
from keras_cnns.training.lr_finder import find_learning_rate
from keras_cnns_export.batches import shuffled_split

SPLITS = ("train", "validation", "test")
CLASSES = ("cat", "dog")
KINDS = ("png", "jpg", "bmp", "webp")  # BMP is read by Pillow
RECIPE = load_recipe("digits-resnet20", ("training.epochs=1", "training.batch_size=4"))
OPENED, CLOSED = 0x20, 0x08 | 0x10  # IN_OPEN, IN_CLOSE_WRITE and IN_CLOSE_NOWRITE
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
CROPS = AugmentationConfig(inception_crop=True)

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


def write_photos(root: Path) -> Path:
    names = [f"{s}/{label}/1.{kind}" for s in SPLITS for label in CLASSES for kind in KINDS]
    for seed, name in enumerate(names):
        write_image(root / name, seed)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of split folders, with an image of each kind of each class."""
    return write_photos(tmp_path / "photos")


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


@contextmanager
def watching() -> Iterator[Callable[[Path], Take]]:
    """Count how often each file below a folder is opened, by whichever library.

    The function that is returned gives the counts since its last call.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux reports which files are opened")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())

    def begin(root: Path) -> Take:
        # The system merges equal successive events; events of closing keep the openings apart.
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

    try:
        yield begin
    finally:
        os.close(descriptor)


@pytest.fixture
def watch() -> Iterator[Callable[[Path], Take]]:
    with watching() as begin:
        yield begin


def count_decoded(patch: pytest.MonkeyPatch) -> Counter[bytes]:
    """Return a counter that will contain how often each encoded image is decoded."""
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

    for module in (decoding, folder_source):
        patch.setattr(module, "decode", counted)
    for module in (decoding, folder_files):
        patch.setattr(module, "read_pixels", counted_with_pillow)
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    return count_decoded(monkeypatch)


@dataclass(frozen=True)
class Training:
    """A training, and how often it opened each file and decoded each image."""

    run: Run
    photos: Path
    opened: Counter[str]
    decoded: Counter[bytes]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    """A training of a network of one block, which compiles quickly; its reports are empty."""
    root = write_photos(tmp_path_factory.mktemp("training") / "photos")
    small = replace(resnet.ARCHITECTURES["resnet20"], blocks=(1,), filters=(16,))
    with pytest.MonkeyPatch.context() as quick:
        quick.setitem(resnet.ARCHITECTURES, "resnet20", small)
        quick.setattr(run_report, "render", lambda *_: "")
        with pytest.MonkeyPatch.context() as patch, watching() as watch:
            decoded, opened = count_decoded(patch), watch(root)
            finished = train(recipe_of(root), root.parent / "run")
            counts = opened()
        yield Training(finished, root, counts, decoded)


def collect(batches: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*batches, strict=True)
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
        assert batches.num_examples == len(files) == 8
        assert collect(batches.epoch(0))[1].tolist() == [0] * 4 + [1] * 4
    assert opened() == dict.fromkeys(files, 1)
    assert decoded == expected


def test_a_training_opens_each_file_once(training: Training) -> None:
    every = files_of(training.photos, *SPLITS)
    assert training.opened == dict.fromkeys(every, 1)
    assert training.decoded == contents(training.photos, every)


@pytest.mark.parametrize("limit", [2**29, 0])
def test_commands_open_each_file_of_their_splits_once(
    limit: int, training: Training, watch: Callable[[Path], Take], decoded: Counter[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(base, "PIXELS_LIMIT", limit)
    photos = training.photos
    expected = {split: contents(photos, files_of(photos, split)) for split in SPLITS}
    opened = watch(photos)

    def assert_read(split: str) -> None:
        assert opened() == dict.fromkeys(files_of(photos, split), 1)
        assert decoded == expected[split]
        opened()
        decoded.clear()

    evaluate(training.run, "validation")
    assert_read("validation")
    assert run(app, ["report", str(training.run.path)], "keras-cnns") == 0
    assert_read("test")
    splits = Splits(training.run.recipe.data)  # as an export with int8 formats
    list(splits.open("validation", batch_size=64, in_memory=False))
    assert_read("validation")
    list(shuffled_split(splits, "train"))
    assert_read("train")


def test_predict_opens_its_image_alone(training: Training, watch: Callable[[Path], Take]) -> None:
    opened = watch(training.photos)
    image = str(training.photos / "test/cat/1.png")
    assert run(app, ["predict", str(training.run.path), image], "keras-cnns") == 0
    assert opened() == {"test/cat/1.png": 1}


def test_the_learning_rate_finder_opens_each_training_file_once(
    training: Training, watch: Callable[[Path], Take]
) -> None:
    opened = watch(training.photos)
    find_learning_rate(training.run.recipe, steps=10)
    assert opened() == dict.fromkeys(files_of(training.photos, "train"), 1)


def test_a_folder_without_split_folders_is_read_once(
    classes: Path, watch: Callable[[Path], Take], decoded: Counter[bytes]
) -> None:
    every = files_of(classes, *CLASSES)
    expected = contents(classes, every)
    opened = watch(classes)
    splits = Splits(config_of(classes))
    splits.fingerprint()
    found = [splits.open(split, batch_size=8) for split in SPLITS]
    assert sum(split.num_examples for split in found) == 60
    for split in (*found, *found):
        collect(split.epoch(0))
    assert opened() == dict.fromkeys(every, 1)
    assert decoded == expected


def test_a_split_that_is_taken_from_training_reads_the_training_folder(
    photos: Path, watch: Callable[[Path], Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(photos / "test")
    for seed in range(100, 140):
        write_image(photos / "train" / CLASSES[seed % 2] / f"{seed}.png", seed)
    opened = watch(photos)
    config = config_of(photos)
    assert Splits(config).open("validation", batch_size=8).num_examples == 8
    assert opened() == dict.fromkeys(files_of(photos, "validation"), 1)
    count = Splits(config).open("test", batch_size=8).num_examples
    assert count > 0
    assert opened() == dict.fromkeys(files_of(photos, "train"), 1)
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)
    assert len(collect(Splits(config).open("test", batch_size=8))[1]) == count
    counts = opened()
    assert set(counts) == files_of(photos, "train")
    # All files are opened for the hashes, and the images of the split also for the batches.
    assert Counter(counts.values()) == {1: len(counts) - count, 2: count}


def test_a_split_beyond_the_limit_is_read_once_by_the_check_and_in_each_epoch(
    photos: Path, watch: Callable[[Path], Take], decoded: Counter[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_image(photos / "train/cat/2.png", 100)  # one image too many
    monkeypatch.setattr(base, "PIXELS_LIMIT", 8 * (8 * 8 * 3))
    opened = watch(photos)
    splits = Splits(config_of(photos))
    splits.fingerprint()
    training, test = (splits.open(split, batch_size=4) for split in ("train", "test"))
    collect(training.steps_from().take(2 * training.steps))
    collect(test)
    counts = dict.fromkeys(files_of(photos, *SPLITS), 1) | dict.fromkeys(
        files_of(photos, "train"), 3
    )
    assert opened() == counts
    assert decoded == {(photos / name).read_bytes(): count for name, count in counts.items()}


def test_of_a_split_beyond_the_limit_only_the_files_of_the_batches_are_opened(
    photos: Path, watch: Callable[[Path], Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = pipeline.PREFETCHED + available_cores() + 1
    for seed in range(100, 100 + 2 * ahead):
        write_image(photos / "train/cat" / f"{seed}.bmp", seed)
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)
    opened = watch(photos)
    batches = Splits(config_of(photos)).open("train", batch_size=1, seed=0)
    assert batches.num_examples == 8 + 2 * ahead
    assert not opened()
    next(iter(batches))
    counts = opened()
    assert set(counts.values()) == {1}
    assert len(counts) <= 1 + ahead


def read_held_out(splits: Splits) -> list[np.ndarray]:
    """Return the images and labels of the validation and the test split."""
    return [part for name in SPLITS[1:] for part in collect(splits.open(name, batch_size=9))]


def test_a_split_by_content_beyond_the_limit_needs_a_pass_over_all_images(
    classes: Path, watch: Callable[[Path], Take], decoded: Counter[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kept = read_held_out(Splits(config_of(classes)))
    every = files_of(classes, *CLASSES)
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)
    decoded.clear()
    opened = watch(classes)
    splits = Splits(config_of(classes))
    for one, other in zip(kept, read_held_out(splits), strict=True):
        np.testing.assert_array_equal(one, other)
    counts = opened()
    # For the hashes and near-duplicates; and the images of two splits also for the batches.
    held_out = len(kept[1]) + len(kept[3])
    assert Counter(counts.values()) == {1: 60 - held_out, 2: held_out}
    assert set(counts) == every
    assert decoded == {(classes / name).read_bytes(): count for name, count in counts.items()}
    assert splits.fingerprint() == fingerprint(config_of(classes))
    damaged = min(name for name in every if name.endswith(".png"))
    (classes / damaged).write_bytes((classes / damaged).read_bytes()[:-30])
    with pytest.raises(FolderError, match=f"{damaged}: damaged or cut short"):
        Splits(config_of(classes)).open("test", batch_size=9)


@pytest.mark.parametrize("limit", [2**29, 0])
def test_a_check_of_files_that_the_cache_knows_opens_none(
    limit: int, classes: Path, watch: Callable[[Path], Take], decoded: Counter[bytes],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kept = read_held_out(Splits(config_of(classes)))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -3600.0)
    monkeypatch.setattr(base, "PIXELS_LIMIT", limit)
    opened = watch(classes)
    known = fingerprint(config_of(classes))  # as the training's check
    assert opened() == dict.fromkeys(files_of(classes, *CLASSES), 1)
    decoded.clear()
    splits = Splits(config_of(classes))
    assert splits.fingerprint() == known
    training = splits.open("train", batch_size=9, check_first=True)
    assert training.num_examples == 60 - len(kept[1]) - len(kept[3])
    assert not opened()
    # Only the files of the splits that are used are opened, once for each use.
    for one, other in zip(kept, read_held_out(splits), strict=True):
        np.testing.assert_array_equal(one, other)
    counts = opened()
    assert set(counts.values()) == {1}
    assert len(counts) == len(kept[1]) + len(kept[3])
    assert decoded == contents(classes, set(counts))
    opened()  # by `contents`
    read_held_out(splits)
    assert opened() == (Counter() if limit else counts)
    # A changed file is found.
    path = classes / max(counts)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FolderError, match=f"{path.name}: damaged or cut short"):
        Splits(config_of(classes)).open("train", batch_size=9)


def test_pixels_that_the_check_kept_are_those_read_anew(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photos, channels=1, mean=(1.0,), std=(1.0,))

    def read(*, check_first: bool) -> tuple[np.ndarray, np.ndarray]:
        splits = Splits(config)
        return collect(splits.open("test[1:]", batch_size=8, seed=1, check_first=check_first))

    kept = read(check_first=True)
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)
    for check_first in (True, False):
        for part, anew in zip(kept, read(check_first=check_first), strict=True):
            np.testing.assert_array_equal(part, anew)


@pytest.mark.parametrize("use", [find_learning_rate, estimate])
def test_a_part_of_a_training_checks_all_its_files_first(
    use: Callable[[Recipe], object], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)
    shutil.copy(photos / "train/cat/1.png", photos / "train/dog/copy.png")
    with pytest.raises(FolderError, match="the same image in different classes"):
        use(recipe_of(photos))


def test_bad_files_beyond_the_limit_are_refused_when_they_are_read(
    photos: Path, watch: Callable[[Path], Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = photos / "test"
    shutil.copy(test / "cat/1.png", test / "dog/copy.png")
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)
    # Copies are found by a training alone, which checks first.
    assert len(collect(Splits(config_of(photos)).open("test", batch_size=2))[1]) == 9
    whole = (test / "cat/1.jpg").read_bytes()
    (test / "cat/1.jpg").write_bytes(whole[:-30])
    (test / "cat/0.png").write_bytes(b"no image")
    (test / "dog/photo.tif").write_bytes(b"II*\0 and so on")
    (test / "dog/3.png").symlink_to("/dev/null")
    (photos / "train/cat/1.png").write_bytes(b"no image")  # not read

    def error_of(split: str, **options: bool) -> str:
        with pytest.raises(FolderError) as error:
            list(Splits(config_of(photos)).open(split, batch_size=2, **options))  # type: ignore[arg-type]
        return str(error.value)

    at_once = error_of("test", check_first=True)
    damaged = "test/cat/1.jpg: damaged or cut short, though it begins like a JPEG file"
    assert "unreadable files (3): test/cat/0.png: not a JPEG, PNG, WebP" in at_once
    assert damaged in at_once
    opened = watch(photos)
    assert error_of("test") == at_once
    assert set(opened()) == files_of(photos, "test") - {"test/dog/3.png"}
    of_some = error_of("test[4:6]")
    assert f"unreadable files (1): {damaged}. Repair or remove the files, or leave" in of_some
    with pytest.raises(tf.errors.OpError, match=damaged):  # a dataset's own error
        collect(Splits(config_of(photos)).open("test[4:6]", batch_size=2).epoch(0))


def test_images_without_an_images_name_are_found_beyond_the_limit(
    photos: Path, watch: Callable[[Path], Take], decoded: Counter[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_image(photos / "test/cat/photo", 100)
    (photos / "test/cat/notes.txt").write_text("no image")
    (photos / "test/cat/.hidden.png").write_bytes(b"no image")
    monkeypatch.setattr(base, "PIXELS_LIMIT", 0)
    expected = contents(
        photos,
        files_of(photos, "test") - {"test/cat/notes.txt", "test/cat/.hidden.png"}
        | {"test/cat/photo"},
    )
    opened = watch(photos)
    assert len(collect(Splits(config_of(photos)).open("test", batch_size=4))[1]) == 9
    counts = opened()
    assert counts.pop("test/cat/photo") == 2  # to see that it is an image, and to decode it
    assert set(counts.values()) == {1}
    assert decoded == expected


def test_a_training_with_an_inception_crop_keeps_no_pixels_of_its_images(
    photos: Path, classes: Path
) -> None:
    for root, split_folder in ((photos, "train"), (classes, None)):
        splits = Splits(config_of(root))
        splits.fingerprint()
        source = splits._source
        assert isinstance(source, Folder)
        kept = weakref.ref(source._kept[split_folder][0])
        training = splits.open("train", batch_size=8, seed=1, augmentation=CROPS)
        assert kept() is None
        every = files_of(root, *SPLITS, *CLASSES)
        assert sum(len(each) for each, _ in source._kept.values()) == (
            len(every) - training.num_examples
        )
    expected = collect(Splits(config_of(classes)).open("validation", batch_size=8))
    for part, other in zip(expected, collect(splits.open("validation", batch_size=8)), strict=True):
        np.testing.assert_array_equal(part, other)


def test_problems_of_another_split_stop_only_a_training(photos: Path) -> None:
    (photos / "train/cat/cut.png").write_bytes(b"no image")
    shutil.copy(photos / "train/cat/1.png", photos / "test/cat/copy.png")
    config = config_of(photos)
    assert Splits(config).open("test", batch_size=8).num_examples == 9
    assert Splits(config).open("validation", batch_size=8).num_examples == 8
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
    assert [skipping.open(name, batch_size=8).num_examples for name in SPLITS] == [7, 8, 9]


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
    assert Splits(config_of(photos)).open("test", batch_size=8).num_examples == 11


def test_a_split_that_is_missing_is_an_error_without_reading(
    photos: Path, watch: Callable[[Path], Take]
) -> None:
    opened = watch(photos)
    with pytest.raises(
        ValueError, match="there is no split 'holdout', or it has no images; the splits are"
    ):
        Splits(config_of(photos)).open("holdout", batch_size=8)
    assert not opened()


@pytest.mark.parametrize("limit", [2**29, 0], ids=["in memory", "beyond the limit"])
def test_a_split_names_its_files_in_the_order_of_its_images(
    photos: Path, classes: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(base, "PIXELS_LIMIT", limit)
    for root, split in ((photos, "test"), (classes, "test"), (photos, "train[3:7]")):
        config = config_of(root)
        opened = open_split(config, split, batch_size=4)
        pixels, _ = collect(opened)
        assert opened.path_of
        for index in range(opened.num_examples):
            image = read_image(opened.path_of(index), config.channels)
            expected = preprocess(image, config.preprocessing())
            np.testing.assert_array_equal(pixels[index], expected)
