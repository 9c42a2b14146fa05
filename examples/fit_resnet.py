"""Train ResNet-20 on scikit-learn's digits with `compile` and `fit`, and save the model.

    python examples/fit_resnet.py

The model takes pixels from 0 to 255, because its first layer normalises them. The model is saved as
`digits-resnet20.keras`; examples/finetune.py starts from this file. With the environment variable
EXAMPLE_STEPS=3, the example trains for only three steps.
"""

import os

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_cnns.models import build
from keras_cnns.optimizers import Momentum

STEPS = int(os.environ.get("EXAMPLE_STEPS", "0")) or None
EPOCHS = 1 if STEPS else 10
BATCH_SIZE = 32

keras.utils.set_random_seed(0)
digits = load_digits()
# The images have 8x8 pixels from 0 to 16. Convert them to 32x32 pixels from 0 to 255.
images = np.rint(np.kron(digits.images, np.ones((4, 4))) * (255 / 16)).astype("uint8")
train_images, test_images, train_labels, test_labels = train_test_split(
    images[..., np.newaxis],
    digits.target,
    test_size=32 if STEPS else 360,
    stratify=digits.target,
    random_state=0,
)

# Compute (pixel - 78) / 84, because the pixels have the mean 78 and the standard deviation 84.
pixels = keras.Input((32, 32, 1), name="images")
normalised = keras.layers.Rescaling(1 / 84, offset=-78 / 84, name="normalise")(pixels)
model = build("resnet20", classes=10, input_tensor=normalised)

total_steps = EPOCHS * -(-len(train_images) // BATCH_SIZE)
model.compile(
    optimizer=Momentum(
        keras.optimizers.schedules.CosineDecay(0.05, total_steps), weight_decay=1e-4
    ),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
model.fit(
    train_images,
    train_labels,
    batch_size=BATCH_SIZE,
    epochs=EPOCHS,
    steps_per_epoch=STEPS,
    verbose=2,
)
_, accuracy = model.evaluate(test_images, test_labels, verbose=0)
print(f"test accuracy {accuracy:.2%} on {len(test_images)} images")
model.save("digits-resnet20.keras")
