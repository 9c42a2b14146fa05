"""The trainings that `time_to_accuracy.py` compares, each of which runs in a process of its own.

    python benchmarks/accuracy_subjects.py NAME IMAGES.npz EPOCHS SEED

A training gets the same 54,000 training, 6,000 validation and 10,000 test images, evaluates the
validation images after each epoch, and is measured on the test images after the last one. Its
seconds begin before the network is built and end after the last epoch; imports, reading the images
and the test are not part of them.
"""

import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CLASSES = 10
RESULT = "result:"  # the beginning of the line with the result; libraries may print other lines
MEAN, STD = 72.9, 90.0  # of the pixels, as in the recipe fashion-fast


class Result(NamedTuple):
    """What a training returns."""

    seconds: float
    accuracy: float  # on the test images, 0 to 1


class Images(NamedTuple):
    """A split: uint8 [N, 28, 28] and int64 [N]."""

    pixels: np.ndarray
    labels: np.ndarray


Splits = dict[str, Images]


def train_ours(splits: Splits, epochs: int, seed: int) -> Result:
    """Train the recipe `fashion-fast` as the command does, with checkpoints and diagnostics."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from keras_cnns.recipes import load_recipe
    from keras_cnns.training import train

    settings = [f"data.{split}_split={split}[:{len(splits[split].labels)}]" for split in splits]
    settings += [f"training.epochs={epochs}", f"training.seed={seed}"]
    with tempfile.TemporaryDirectory() as directory:
        run = train(load_recipe("fashion-fast", settings), Path(directory) / "run")
        results = run.results()
    return Result(results["training_seconds"], results["test"]["accuracy"])


def train_pytorch(splits: Splits, epochs: int, seed: int, compiled: bool = False) -> Result:
    """Train the network and the recipe of `fashion-fast` in PyTorch.

    The images are in memory and each batch is augmented with a few tensor operations, so that no
    loader takes time from the training.
    """
    import torch
    import torch_nets
    from torch.nn.functional import cross_entropy, pad

    size, shift, batch_size = 28, 2, 128
    peak, momentum, decay, smoothing = 0.2, 0.9, 5e-4, 0.1
    data = {
        split: ((torch.tensor(pixels)[:, None].float() - MEAN) / STD, torch.tensor(labels))
        for split, (pixels, labels) in splits.items()
    }

    def augment(batch: torch.Tensor) -> torch.Tensor:
        """Crop each image [B, 1, 32, 32] at a random position, and mirror half of the images."""
        count = len(batch)
        rows, columns = (
            torch.randint(0, 2 * shift + 1, (count, 1)) + torch.arange(size) for _ in range(2)
        )
        mirrored = torch.rand(count, 1) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        index = torch.arange(count)[:, None, None]
        return batch[index, 0, rows[:, :, None], columns[:, None, :]][:, None]

    def accuracy(split: str) -> float:
        images, labels = data[split]
        net.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            right = sum(
                int((forward(part.to(memory_format=torch.channels_last)).argmax(1) == truth).sum())
                for part, truth in zip(images.split(500), labels.split(500), strict=True)
            )
        net.train()
        return right / len(labels)

    torch.manual_seed(seed)
    start = time.perf_counter()
    images, labels = data["train"]
    # The padding has the value of a black pixel.
    images = pad(images, (shift,) * 4, value=-MEAN / STD)
    steps = math.ceil(len(images) / batch_size)
    net = torch_nets.resnet20(CLASSES, channels=1).to(memory_format=torch.channels_last)
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(
        net.parameters(), peak, momentum=momentum, weight_decay=decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=epochs * steps + 1, pct_start=0.25, cycle_momentum=False
    )
    for _ in range(epochs):
        for indices in torch.randperm(len(images)).split(batch_size):
            batch = augment(images[indices]).to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = forward(batch)
            cross_entropy(logits.float(), labels[indices], label_smoothing=smoothing).backward()
            optimizer.step()
            schedule.step()
        accuracy("validation")
    seconds = time.perf_counter() - start
    return Result(seconds, accuracy("test"))


def train_pytorch_compiled(splits: Splits, epochs: int, seed: int) -> Result:
    """Train in PyTorch with `torch.compile`, whose compilation is part of the seconds."""
    return train_pytorch(splits, epochs, seed, compiled=True)


def train_keras_example(splits: Splits, epochs: int, seed: int) -> Result:
    """Train Keras' example for ResNet on CIFAR-10 (cifar10_resnet.py), with other images.

    The example is a ResNet-20 with learned shortcuts, trained with Adam in batches of 32 in
    float32, with random shifts of a tenth and random mirroring. It has 200 epochs; its learning
    rate is divided by 10 after 40 %, 60 % and 80 % of them and halved after 90 %, and it is here,
    too.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    mean = splits["train"].pixels.mean(axis=0) / 255
    data = {
        split: ((pixels / 255 - mean)[..., None].astype("float32"), labels)
        for split, (pixels, labels) in splits.items()
    }
    net = _keras_example_network()
    loss = "sparse_categorical_crossentropy"
    net.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    factors = ((0.9, 0.5e-3), (0.8, 1e-3), (0.6, 1e-2), (0.4, 1e-1), (0.0, 1.0))

    def learning_rate(epoch: int) -> float:
        return 1e-3 * next(factor for begin, factor in factors if epoch >= begin * epochs)

    shifts = tf.keras.preprocessing.image.ImageDataGenerator(
        width_shift_range=0.1, height_shift_range=0.1, horizontal_flip=True
    )
    net.fit(
        shifts.flow(*data["train"], batch_size=32, seed=seed),
        epochs=epochs,
        validation_data=data["validation"],
        callbacks=[keras.callbacks.LearningRateScheduler(learning_rate)],
        verbose=0,
    )
    seconds = time.perf_counter() - start
    return Result(seconds, net.evaluate(*data["test"], verbose=0)[1])


def _keras_example_network() -> Any:
    import keras
    from keras import layers

    def conv(filters: int, size: int, stride: int = 1) -> Any:
        return layers.Conv2D(
            filters,
            size,
            stride,
            padding="same",
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(1e-4),
        )

    def normalized(x: Any, filters: int, stride: int = 1) -> Any:
        return layers.BatchNormalization()(conv(filters, 3, stride)(x))

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(normalized(inputs, 16))
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if filters > 16 and block == 0 else 1
            y = layers.ReLU()(normalized(x, filters, stride))
            y = normalized(y, filters)
            x = layers.ReLU()(layers.add([conv(filters, 1, stride)(x) if stride > 1 else x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(7)(x))
    outputs = layers.Dense(CLASSES, activation="softmax", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, outputs)


def train_fastai(splits: Splits, epochs: int, seed: int) -> Result:
    """Train a ResNet-18 from scratch with fastai's defaults: `vision_learner`, `fit_one_cycle`."""
    import torch
    import torch_nets

    torch_nets.import_torchvision()
    from fastai.data.all import CategoryBlock, ColReader, DataBlock, IndexSplitter
    from fastai.metrics import accuracy
    from fastai.torch_core import set_seed
    from fastai.vision.all import ImageBlock, PILImageBW, resnet18, vision_learner

    set_seed(seed, reproducible=False)
    names = ("train", "validation", "test")
    items = [pair for split in names for pair in zip(*splits[split], strict=True)]
    counts = [len(splits[split].labels) for split in names]
    start = time.perf_counter()
    block = DataBlock(
        blocks=(ImageBlock(PILImageBW), CategoryBlock(vocab=list(range(CLASSES)))),
        splitter=IndexSplitter(range(counts[0], counts[0] + counts[1])),
        get_x=ColReader(0),
        get_y=ColReader(1),
    )
    loaders = block.dataloaders(items[: counts[0] + counts[1]], num_workers=0)
    learner = vision_learner(
        loaders, resnet18, pretrained=False, n_in=1, normalize=False, metrics=accuracy
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs)
    seconds = time.perf_counter() - start
    with learner.no_bar():
        probabilities, targets = learner.get_preds(
            dl=loaders.test_dl(items[-counts[2] :], with_labels=True)
        )
    return Result(
        seconds, float((probabilities.argmax(1) == torch.as_tensor(targets)).float().mean())
    )


TRAININGS = {
    "ours": train_ours,
    "PyTorch": train_pytorch,
    "PyTorch compiled": train_pytorch_compiled,
    "Keras' example": train_keras_example,
    "fastai": train_fastai,
}


def main(name: str, path: str, epochs: str, seed: str) -> None:
    """Train a subject in this process, and print its result."""
    with np.load(path) as arrays:
        splits = {
            split: Images(arrays[f"{split}_images"], arrays[f"{split}_labels"])
            for split in ("train", "validation", "test")
        }
    result = TRAININGS[name](splits, int(epochs), int(seed))
    print(RESULT, json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
