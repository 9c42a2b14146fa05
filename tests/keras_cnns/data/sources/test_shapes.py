"""The procedural shapes: any size and number of images, reproducible, and learnable."""

from dataclasses import replace

import numpy as np
import pytest

from keras_cnns.data import open_split, read_labels
from keras_cnns.data.sources import shapes
from keras_cnns.recipes import load_recipe

SHAPES = load_recipe("shapes-resnet18").data


@pytest.mark.parametrize(("size", "samples"), [(16, 30), (50, 200)])
def test_any_size_and_number(size: int, samples: int) -> None:
    config = replace(SHAPES, image_size=size, resize_shorter=size, num_examples=samples)
    assert read_labels(config) == tuple(shapes.SHAPES)
    counts = {"train": samples, "validation": max(samples // 10, 10), "train[:50%]": samples // 2}
    pixels = set()
    for split, count in counts.items():
        data = open_split(config, split, batch_size=7)
        batches = list(data.epoch(0).as_numpy_iterator())
        images = np.concatenate([images for images, _ in batches])
        assert images.shape == (count, size, size, 3)
        pixels |= {image.tobytes() for image in images}
        labels = np.concatenate([labels for _, labels in batches])
        np.testing.assert_array_equal(labels, np.arange(count) % 10)
    assert len(pixels) == counts["train"] + counts["validation"], "an image occurs twice"


def test_images_cost_nothing_until_they_are_drawn() -> None:
    config = replace(SHAPES, image_size=64, resize_shorter=64, num_examples=10**9)
    data = open_split(config, "train", batch_size=4, seed=1)
    assert data.num_examples == 10**9
    assert next(data.epoch(0, start_step=10**8).as_numpy_iterator())[0].std() > 10


def test_the_colour_does_not_depend_on_the_class() -> None:
    config = replace(SHAPES, image_size=32, resize_shorter=32, num_examples=1000)
    images, labels = next(open_split(config, "train", batch_size=1000).epoch(0).as_numpy_iterator())
    colours = images.reshape(1000, -1, 3).mean(axis=1)
    means = np.array([colours[labels == k].mean(axis=0) for k in range(10)])
    nearest = np.argmin(((colours[:, None] - means[None]) ** 2).sum(axis=2), axis=1)
    assert np.mean(nearest == labels) < 0.2
