"""Export a Keras model that keras-cnns did not build, and save an image for the server to classify.

    python examples/export_any_keras_model.py
    keras-cnns serve models
    python examples/client.py seven.png --model any-keras-model

The predictions of each format are compared with those of Keras. If a format differs, nothing is
published. With the environment variable EXAMPLE_STEPS=3, the example trains for only three steps.
"""

import os

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from keras_cnns_export import export

STEPS = int(os.environ.get("EXAMPLE_STEPS", "0")) or None

keras.utils.set_random_seed(0)
digits = load_digits()
images = np.rint(np.kron(digits.images, np.ones((4, 4))) * (255 / 16)).astype("uint8")
images, labels = images[..., np.newaxis], digits.target

model = keras.Sequential(
    [
        keras.Input((32, 32, 1), name="images"),
        keras.layers.Rescaling(1 / 255),  # an exported model takes pixels from 0 to 255
        keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
        keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax"),
    ],
    name="small_cnn",
)
model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(
    images[:1500],
    labels[:1500],
    epochs=1 if STEPS else 10,
    steps_per_epoch=STEPS,
    verbose=2,
)

names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
test = (images[1500:], labels[1500:])
version = export(model, "models/any-keras-model", labels=names, samples=("test", test))
print(f"published {version}")

seven = int(np.flatnonzero(labels[1500:] == 7)[0]) + 1500
Image.fromarray(images[seven, :, :, 0]).save("seven.png")
