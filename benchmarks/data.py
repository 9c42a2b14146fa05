"""Speed of the input pipeline, compared with the training step and with reading raw records.

    python benchmarks/data.py [--quick] [--json FILE]

The script measures every recipe that can run without a download. Three subjects run in turn within
one process: the pipeline alone, with all its augmentation; the compiled training step on a batch in
memory; and tf.data, which reads the same images from a TFRecord file without decoding them. A ratio
is the pipeline's images per second divided by those of one of the other two. For example, a ratio
of 10 to the training step means that the pipeline takes a tenth of the step's time. The
augmentations of ImageNet are measured on JPEG files of 500x375 pixels, which the script generates.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from turns import ratios, write_rows

from keras_cnns.data import Splits, read_labels
from keras_cnns.data.autotuning import without_autotuning
from keras_cnns.data.sources import shapes
from keras_cnns.recipes import Recipe, load_recipe
from keras_cnns.training.model import build_model, compile_model, for_outputs

PHOTO, PHOTOS = 500, 96  # pixels of the longer side, and number of generated files


@dataclass(frozen=True)
class Case:
    name: str
    recipe: str
    changes: tuple[str, ...] = ()


CIFAR_LIKE = (
    "data.name=shapes",
    "data.train_split=train",
    "data.validation_split=validation",
    "data.num_examples=10000",
)
CASES = (
    Case("digits-resnet20", "digits-resnet20"),
    Case("digits-googlenet", "digits-googlenet"),
    Case("shapes-resnet18", "shapes-resnet18"),
    Case("cifar10-resnet20 on shapes", "cifar10-resnet20", CIFAR_LIKE),
    Case("finetune-folder", "finetune-folder", ("model.weights=", "model.frozen_epochs=0")),
    Case(
        "imagenet-resnet50 on a folder",
        "imagenet-resnet50",
        (
            "data.name=folder",
            "data.validation_split=validation",
            "data.test_split=test",
            "training.batch_size=16",
        ),
    ),
)


def make_photos(root: Path) -> None:
    for number in range(PHOTOS):
        picture = shapes.draw(tf.constant(number % 10), PHOTO, tf.constant([number, 0], tf.int64))
        path = root / str(number % 10) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(picture[: PHOTO * 3 // 4], quality=90).numpy())


def write_records(images: Iterator[Any], path: Path, folder: str) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        if folder:
            for file in sorted(Path(folder).rglob("*.jpg")):
                writer.write(file.read_bytes())
        else:
            for image in images:
                writer.write(tf.io.encode_png(image).numpy())


def rate(batches: Iterator[Any], size: Callable[[Any], int], seconds: float) -> float:
    """Return the images per second of an iterator, measured for some seconds.

    Args:
        batches: the iterator.
        size: a function that returns the number of images in an item.
        seconds: the duration of the measurement.
    """
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        count += size(next(batches))
    return count / elapsed


def measure(case: Case, folder: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    changes = list(case.changes)
    recipe: Recipe = load_recipe(
        case.recipe, [*changes, f"data.path={folder}"] if ("folder" in case.name) else changes
    )
    data, batch_size = recipe.data, recipe.training.batch_size
    splits = Splits(data)
    split = splits.open(
        data.train_split,
        batch_size=batch_size,
        seed=0,
        augmentation=recipe.augmentation,
        check_first=True,
    )
    model = build_model(recipe, len(read_labels(data)))
    compile_model(model, recipe, split.steps)
    ready = next(iter(for_outputs(model, split.steps_from(0))))

    with tempfile.TemporaryDirectory() as scratch:
        records = Path(scratch) / "records"
        plain = splits.open(data.train_split, batch_size=1, check_first=True)
        count = min(split.num_examples, 2000)
        images = (each[0] for each, _ in plain.epoch(0).take(count))
        write_records(images, records, data.path)
        pipeline = iter(split.steps_from(0))
        encoded = tf.data.TFRecordDataset(str(records)).repeat().batch(batch_size).prefetch(2)
        raw = iter(without_autotuning(encoded))

        def steps() -> Iterator[int]:
            while True:
                model.train_on_batch(*ready)
                yield batch_size

        step = steps()
        for source in (pipeline, raw, step):
            for _ in range(3):
                next(source)
        rates = []
        for _ in range(rounds):
            rates.append(
                (
                    rate(pipeline, lambda batch: int(batch[1].shape[0]), seconds),
                    rate(step, lambda size: size, seconds),
                    rate(raw, lambda batch: int(batch.shape[0]), seconds),
                )
            )
    rows = []
    for peer, name in ((1, "training step"), (2, "tf.data, raw records")):
        figures = ratios([each[0] for each in rates], [each[peer] for each in rates])
        row = {"case": case.name, "subject": "pipeline", "peer": name} | figures
        mine, theirs = (statistics.median(each[k] for each in rates) for k in (0, peer))
        spread = f"{row['ratio']:>9.2f}{row['low']:>9.2f}{row['high']:>9.2f}"
        print(f"{case.name:<30}{name:<22}{mine:>10.0f}{theirs:>10.0f}{spread}", flush=True)
        rows.append(row)
    keras.backend.clear_session()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    arguments = parser.parse_args()
    rounds, seconds = (3, 0.7) if arguments.quick else (7, 2.0)
    print(f"{'case':<30}{'peer':<22}{'images/s':>10}{'peer':>10}{'ratio':>9}{'low':>9}{'high':>9}")
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder))
        rows = [row for case in CASES for row in measure(case, Path(folder), rounds, seconds)]
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
