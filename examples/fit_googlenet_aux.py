"""Train GoogLeNet with its two auxiliary classifiers, and keep only the main classifier.

    python examples/fit_googlenet_aux.py

With `aux_heads=True`, the output of the model is a dict with the keys `main`, `aux1` and `aux2`.
The targets, the losses and the loss weights are dicts with the same keys. With the environment
variable EXAMPLE_STEPS=3, the example trains for only three steps.
"""

import os

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_cnns.models import build
from keras_cnns.optimizers import Momentum

STEPS = int(os.environ.get("EXAMPLE_STEPS", "0")) or None

keras.utils.set_random_seed(0)
digits = load_digits()
images = np.rint(np.kron(digits.images, np.ones((4, 4))) * (255 / 16)).astype("uint8")
train_images, test_images, train_labels, test_labels = train_test_split(
    images[..., np.newaxis],
    digits.target,
    test_size=32 if STEPS else 360,
    stratify=digits.target,
    random_state=0,
)

# GoogLeNet has no batch normalisation. Without this layer, its activations would be about a hundred
# times as large, and the training might diverge (docs/models-and-weights.md).
pixels = keras.Input((32, 32, 1), name="images")
normalised = keras.layers.Rescaling(1 / 84, offset=-78 / 84, name="normalise")(pixels)
model = build("googlenet", classes=10, aux_heads=True, input_tensor=normalised)

heads = list(model.output)  # Keras sorts the outputs by name, so select an output by its name
model.compile(
    optimizer=Momentum(0.01),
    loss=dict.fromkeys(heads, "sparse_categorical_crossentropy"),
    # Each auxiliary loss has the weight 0.3 (Szegedy et al. 2014, section 5).
    loss_weights={"main": 1.0, "aux1": 0.3, "aux2": 0.3},
    metrics={"main": ["accuracy"]},
)
model.fit(
    train_images,
    dict.fromkeys(heads, train_labels),
    batch_size=32,
    epochs=1 if STEPS else 6,
    steps_per_epoch=STEPS,
    verbose=2,
)

# The auxiliary classifiers are only needed in the training: keep the part that ends in `main`.
classifier = keras.Model(model.input, model.output["main"], name="googlenet")
predicted = classifier.predict(test_images, verbose=0).argmax(axis=1)
print(f"test accuracy {np.mean(predicted == test_labels):.2%} on {len(test_images)} images")
classifier.save("digits-googlenet.keras")
