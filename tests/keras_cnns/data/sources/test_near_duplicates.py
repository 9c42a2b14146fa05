"""Near-duplicates, such as images that were saved again, are found and not split apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from keras_cnns.data.check import check_folder
from keras_cnns.data.sources.folder.files import scan_folder
from keras_cnns.data.sources.folder.image_file import ImageFile
from keras_cnns.data.sources.folder.near_duplicates import (
    MAX_GROUP,
    group_near_duplicates,
    with_near_duplicates,
)
from keras_cnns.data.sources.folder.splits import assign_splits, find_scarce_classes
from keras_cnns.data.sources.idx import find_files, read_set

FASHION = Path("/usr/share/datasets/fashion-mnist")
SPLITS = ("validation", "test")


def photo(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Return a smooth picture in colours, such as a photo is at a distance."""
    levels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def near_groups(root: Path) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for file in scan_folder(root).files:
        if file.near:
            groups.setdefault(file.near, []).append(file.path.name)
    return sorted(groups.values())


def test_a_picture_that_was_saved_again_is_found(tmp_path: Path) -> None:
    for seed in range(20):
        save(photo(seed), tmp_path / "ab"[seed % 2] / f"{seed}.png")
    picture = photo(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "quality.jpg": (picture, {"quality": 60}),
        "smaller.webp": (picture.resize((48, 40), Image.Resampling.BICUBIC), {}),
        "brighter.png": (ImageEnhance.Brightness(picture).enhance(1.02), {}),
        "grey.bmp": (picture.convert("L"), {}),
        "turned.jpg": (picture.transpose(Image.Transpose.ROTATE_90), {"exif": exif}),
    }
    for name, (image, options) in variants.items():
        save(image, tmp_path / "b" / name, **options)
    save(photo(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT), tmp_path / "b" / "mirrored.png")
    assert near_groups(tmp_path) == [sorted(["3.png", *variants])]


def test_groups_are_those_of_all_pairs_and_no_chain_exceeds_the_limit() -> None:
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (3000, 256)).astype(float)
    for start, count in ((100, 2), (200, 5), (300, 60)):  # each is the next one, slightly changed
        for index in range(start + 1, start + count):
            base[index] = base[index - 1] + random.normal(0, 3, 256)
    thumbnails = base.clip(0, 255).round().astype(np.uint8)
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    near = unit @ unit.T >= 0.998
    order = random.permutation(3000)
    for indices in (np.arange(3000), order):
        groups = group_near_duplicates(thumbnails[indices])
        sizes = np.bincount(groups, minlength=3000)
        assert MAX_GROUP / 2 < sizes.max() <= MAX_GROUP  # groups of two sizes may not fit
        of_film = np.isin(indices, np.arange(300, 360))
        members = [set(indices[groups == group]) for group in np.flatnonzero(sizes > 1)]
        assert {100, 101} in members
        assert {200, 201, 202, 203, 204} in members
        in_groups = sizes[groups] > 1
        assert in_groups.sum() == 7 + (in_groups & of_film).sum()
        assert (in_groups & of_film).sum() >= 55
        assert (groups <= np.arange(3000)).all()
        assert (groups[groups] == groups).all()
    alone = near.sum(axis=1) == 1
    assert not in_groups[alone[order]].any()


def test_a_film_of_equal_frames_costs_little() -> None:
    random = np.random.default_rng(0)
    frames = np.repeat(random.integers(50, 200, (1, 256), np.uint8), 6_000, axis=0)
    groups = group_near_duplicates(frames + random.integers(0, 2, frames.shape, np.uint8))
    assert MAX_GROUP / 2 < np.bincount(groups).max() <= MAX_GROUP


@pytest.mark.parametrize("count", [0, 1, 2])
def test_images_of_one_colour_are_in_no_group(count: int) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 2, (1, 256), np.uint8)  # such as JPEG leaves in a black frame
    flat = np.repeat(noise, count, axis=0)
    assert group_near_duplicates(flat).tolist() == list(range(count))


def test_near_duplicates_are_on_one_side_and_all_others_where_they_were(tmp_path: Path) -> None:
    for seed in range(60):
        save(photo(seed), tmp_path / "ab"[seed % 2] / f"{seed:02}.png")
    before = scan_folder(tmp_path).files
    assert not any(file.near for file in before)
    side = {
        file.path.name: split
        for split, files in assign_splits(before, SPLITS).items()
        for file in files
    }
    for seed in range(10):
        for quality in (60, 75, 90):
            label = "b" if seed == 4 else "ab"[seed % 2]
            path = tmp_path / label / f"{seed:02} again {quality}.jpg"
            save(photo(seed), path, quality=quality)
    files = scan_folder(tmp_path).files
    splits = assign_splits(files, SPLITS)
    sides: dict[str, set[str]] = {}
    for split, members in splits.items():
        for file in members:
            sides.setdefault(file.path.name[:2], set()).add(split)
    assert {key: len(found) for key, found in sides.items()} == dict.fromkeys(sides, 1)
    assert len({split for seed in range(10) for split in sides[f"{seed:02}"]}) > 1
    for seed in range(10, 60):
        assert sides[f"{seed:02}"] == {side[f"{seed:02}.png"]}
    # Whatever their names and order are.
    again = assign_splits(with_near_duplicates(tmp_path, reversed(files)), SPLITS)
    for split, members in splits.items():
        assert sorted(again[split], key=lambda file: file.path) == members

    found = {each.title: each.lines for each in check_folder(tmp_path).findings if each.lines}
    assert found["near-duplicates in different classes, whose labels may be wrong"] == (
        "a/04.png ~ b/04 again 60.jpg ~ b/04 again 75.jpg ~ b/04 again 90.jpg",
    )
    inside = found["near-duplicates within a class, which are kept in the same split"]
    assert len(inside) == 9
    assert "a/00 again 60.jpg ~ a/00 again 75.jpg ~ a/00 again 90.jpg ~ a/00.png" in inside
    assert not check_folder(tmp_path).has_errors


def test_near_duplicates_across_split_folders_are_reported(tmp_path: Path) -> None:
    for seed in range(8):
        save(photo(seed), tmp_path / "train" / "ab"[seed % 2] / f"{seed}.png")
        save(photo(seed + 8), tmp_path / "val" / "ab"[seed % 2] / f"{seed}.png")
    save(photo(8), tmp_path / "train" / "a" / "leak.jpg", quality=80)
    report = check_folder(tmp_path)
    found = {each.title: each.lines for each in report.findings if each.lines}
    title = "near-duplicates in different splits, which make the metrics look too good"
    assert found[title] == ("train/a/leak.jpg ~ val/a/0.png",)


def test_near_duplicates_count_as_one_image_of_a_small_folder() -> None:
    files = [
        ImageFile(Path(f"a/{number}"), "a", None, digest=f"{number:064x}", near=near)
        for number, near in enumerate(["", "", f"{2:064x}", f"{2:064x}"])
    ]
    assert find_scarce_classes(files, SPLITS) == (3, {})
    assert find_scarce_classes(files[1:], SPLITS) == (3, {"a": 2})
    splits = assign_splits(files, SPLITS)
    assert sorted(map(len, splits.values())) == [1, 1, 2]


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is missing")
def test_few_images_of_fashion_mnist_are_grouped() -> None:
    assert find_files(FASHION)
    images = read_set(str(FASHION)).splits["test"][0]
    thumbnails = [
        np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)).ravel()
        for image in images
    ]
    sizes = np.bincount(group_near_duplicates(np.stack(thumbnails)))
    assert sizes[sizes > 1].sum() <= 0.01 * len(images)
    assert sizes.max() <= 5
