"""The images that formats are compared on, and that int8 takes its ranges from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_cnns.data import pipeline
from keras_cnns.recipes import load_recipe
from keras_cnns_export import export_run
from keras_cnns_export.formats import FORMATS
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


INT8 = [name for name, row in FORMATS.items() if row.precision == "int8"]


@pytest.mark.parametrize("formats", [("onnx",), ("onnx", "openvino", *INT8)])
def test_an_export_decodes_only_what_it_uses_and_once(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formats: tuple[str, ...]
) -> None:
    whole: list[int] = []
    anew: list[int] = []
    split = pipeline.Split
    read_all, read = split._read_all, split._read

    def counted_all(self: Any, samples: Any) -> Any:
        whole.append(samples.count)
        return read_all(self, samples)

    def counted(self: Any, samples: Any, where: Any) -> Any:  # once for each pipeline: it is traced
        if self._decoded is None:
            anew.append(self.samples)
        return read(self, samples, where)

    monkeypatch.setattr(split, "_read_all", counted_all)
    monkeypatch.setattr(split, "_read", counted)
    export_run(finished_run, tmp_path / "digits", formats=formats, calibrate=True, report=True)
    assert whole == [180]  # the validation split, three times used
    assert anew == ([1253] if set(formats) & set(INT8) else [])  # the training split, in parts
