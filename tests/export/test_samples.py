"""The images that formats are compared on, and that int8 takes its ranges from."""

from pathlib import Path

import numpy as np
from PIL import Image

from keras_cnns.recipes import load_recipe
from keras_cnns_export.samples import first, shuffled_split


def test_the_head_of_a_sorted_folder_has_every_class_and_no_augmentation(tmp_path: Path) -> None:
    for level, label in enumerate(("cat", "dog", "owl")):
        (tmp_path / label).mkdir()
        for number in range(60):
            pixels = np.full((8, 8, 3), 60 * level + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    sizes = ["data.image_size=8", "data.resize_shorter=8"]
    data = load_recipe("finetune-folder", [f"data.path={tmp_path}", *sizes]).data
    images, classes = first(shuffled_split(data, "train"), 48)
    assert classes is not None
    assert np.bincount(classes, minlength=3).min() >= 8
    again, _ = first(shuffled_split(data, "train"), 48)
    np.testing.assert_array_equal(images, again)
    assert len(np.unique(images.reshape(48, -1), axis=0)) == 48  # each once
    np.testing.assert_array_equal(images[:, 0, 0, 0] // 60, classes)
    assert (images == images[:, :1, :1]).all()
