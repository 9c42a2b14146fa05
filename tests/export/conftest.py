"""Tiny models, and one published version that many tests read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnns.recipes import format_recipe, load_recipe
from keras_cnns_export import export
from keras_cnns_export.formats import FORMATS
from keras_cnns_export.formats.openvino import has_bfloat16
from keras_cnns_export.options import Quantization
from tests.conftest import Once

LABELS = ("ant", "bee", "cat", "dog's", "Érable")
SHAPE = (12, 10, 3)


Images = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def labels() -> tuple[str, ...]:
    return LABELS


def _build_tiny(
    shape: tuple[int | None, ...] = SHAPE, head: Callable[[Any], Any] | None = None
) -> Any:
    keras.utils.set_random_seed(0)
    head = head or layers.Dense(len(LABELS), activation="softmax", dtype="float32")
    images = keras.Input(shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(images)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    shortcut = layers.BatchNormalization()(x)
    x = layers.ReLU()(shortcut)
    x = layers.Conv2D(8, 3, padding="same")(x) + shortcut
    model = keras.Model(images, head(layers.GlobalAveragePooling2D()(x)), name="tiny")
    random = np.random.default_rng(0)
    for weight in model.weights:
        noise = random.uniform(0.1, 0.6, weight.shape)
        weight.assign(weight.numpy().astype("float32") + noise)
    return model


@pytest.fixture(scope="session")
def build_tiny() -> Callable[..., Any]:
    """Return a function that builds a residual classifier with batch norm.

    The moving means of the batch norm are not 0. The function's arguments are the shape of the
    input, and the head on the pooled features [N, 8].
    """
    return _build_tiny


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The model of `build_tiny` with its default arguments."""
    return _build_tiny()


@pytest.fixture(scope="session")
def split() -> tuple[Images, Images]:
    """Images uint8 [70, H, W, C] and true classes."""
    random = np.random.default_rng(1)
    return random.integers(0, 256, (70, *SHAPE), np.uint8), random.integers(0, len(LABELS), 70)


@pytest.fixture(scope="session")
def version(
    tmp_path_factory: pytest.TempPathFactory, tiny: Any, split: tuple[Images, Images]
) -> Path:
    """A published version with both formats; tests read it and leave it as it is."""
    to = tmp_path_factory.mktemp("models") / "tiny"
    return export(tiny, to, labels=LABELS, samples=("test", split))


@pytest.fixture(scope="session")
def trained() -> tuple[Any, Images, Images]:
    """A model that classifies five colours, images of them, and their classes."""
    random = np.random.default_rng(2)
    classes = np.arange(320) % len(LABELS)
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])[classes]
    noise = random.integers(0, 100, (len(classes), *SHAPE))
    images = (noise + 120 * colours[:, np.newaxis, np.newaxis]).astype(np.uint8)
    model = _build_tiny()
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(images.astype("float32"), classes, batch_size=32, epochs=12, verbose=0)
    return model, images, classes


@pytest.fixture(scope="session")
def all_formats(once: Once, request: pytest.FixtureRequest) -> Path:
    """A published version with every format that this machine can prove."""
    names = [name for name, row in FORMATS.items() if row.precision != "bfloat16" or has_bfloat16()]

    def fill(directory: Path) -> None:
        model, images, classes = request.getfixturevalue("trained")
        cut = slice(256, None)
        export(
            model,
            directory / "trained",
            labels=LABELS,
            formats=names,
            samples=("test", (images[cut], classes[cut])),
            training_samples=(images[:256], classes[:256]),
            quantization=Quantization(samples=100),
        )

    return once("all-formats", fill) / "trained" / "1"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory, as training leaves it, of an untrained tiny model for the digits."""
    run = tmp_path_factory.mktemp("runs") / "first"
    run.mkdir()
    sizes = ["data.image_size=16", "data.resize_shorter=18"]
    recipe = load_recipe("digits-resnet20", sizes)
    (run / "config.toml").write_text(format_recipe(recipe), encoding="utf-8")
    labels = [f"digit {number}" for number in range(10)]
    results = {"test": {"samples": 364, "loss": 2.0, "accuracy": 0.25}}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (run / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    keras.utils.set_random_seed(0)  # with some initial values, int8 would be too inaccurate
    _build_tiny((16, 16, 1), head=layers.Dense(10, activation="softmax")).save(run / "model.keras")
    return run
