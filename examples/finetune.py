"""Fine-tune a trained network on a folder of images that has other classes.

    python examples/fit_resnet.py       # writes the trained network, digits-resnet20.keras
    python examples/finetune.py

The folder has one subfolder for each class. For your own photos, change the constants below, for
instance to these values for a checkpoint of torchvision or timm:

    MODEL, WEIGHTS, PHOTOS = "resnet50", "resnet50.safetensors", Path("my-photos")
    SIZE, COLOUR = 224, "rgb"
    MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

With the environment variable EXAMPLE_STEPS=3, the example trains for only three steps.
"""

import os
from pathlib import Path

import keras
from PIL import Image
from sklearn.datasets import load_digits

from keras_cnns.models import build
from keras_cnns.optimizers import Momentum

MODEL, WEIGHTS, PHOTOS = "resnet20", "digits-resnet20.keras", Path("photos")
SIZE, COLOUR, MEAN, STD = 32, "grayscale", (78.0,), (84.0,)
STEPS = int(os.environ.get("EXAMPLE_STEPS", "0")) or None

# If there is no such folder, create it with two classes: digits with and without a closed loop.
if not PHOTOS.exists():
    for index, (pixels, digit) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        path = PHOTOS / ("loop" if digit in (0, 6, 8, 9) else "no-loop") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels.reshape(8, 8) * (255 / 16)).astype("uint8")).save(path)

options = {"image_size": (SIZE, SIZE), "color_mode": COLOUR, "batch_size": 32, "seed": 0}
training, validation = keras.utils.image_dataset_from_directory(
    PHOTOS, validation_split=0.2, subset="both", verbose=False, **options
)

images = keras.Input((SIZE, SIZE, len(MEAN)), name="images")
scale, offset = [1 / s for s in STD], [-m / s for m, s in zip(MEAN, STD, strict=True)]
normalised = keras.layers.Rescaling(scale, offset, name="normalise")(images)
backbone = build(MODEL, input_tensor=normalised, include_top=False, pooling="avg", weights=WEIGHTS)
classes = len(training.class_names)
outputs = keras.layers.Dense(classes, activation="softmax", name="main")(backbone.output)
model = keras.Model(images, outputs)

# First train only the new classifier, and then the last stages as well, with a lower learning rate.
# A frozen batch normalisation layer keeps its moving averages as well as its weights.
for trainable, learning_rate in (((), 0.1), (("stage3", "stage4", "inception_5"), 0.001)):
    for layer in backbone.layers:
        layer.trainable = layer.name.startswith(trainable)
    model.compile(
        Momentum(learning_rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    steps = {"epochs": 1 if STEPS else 3, "steps_per_epoch": STEPS, "validation_steps": STEPS}
    model.fit(training, validation_data=validation, verbose=2, **steps)
model.save("photos.keras")
