"""Write your own diagnostic, and log it together with diagnostics of keras-cnns.

    python examples/own_callback.py

A subclass of `Diagnostic` only defines the method `measure`, which is called every `interval`
steps. It returns a dict from names to numbers: `metric` is the name of a number for the whole
model, and `metric/layer` is the name of a number for one layer. `Resume` saves and restores the
state of a diagnostic in the same way as the state of any other callback. With the environment
variable EXAMPLE_STEPS=3, the example trains for only three steps.
"""

import os

import keras
import numpy as np
from sklearn.datasets import load_digits

from keras_cnns.training.callbacks import DeadReLU, Diagnostic, DiagnosticsLog, GradientNorm, Probe

STEPS = int(os.environ.get("EXAMPLE_STEPS", "0")) or None


class WeightNorm(Diagnostic):
    """Measure the L2 norm of each layer's kernel, and of all kernels together."""

    def measure(self) -> dict[str, float]:
        """Return `weight_norm`, and `weight_norm/layer` for each layer that has a kernel."""
        norms = {
            f"weight_norm/{layer.name}": float(keras.ops.norm(keras.ops.ravel(layer.kernel)))
            for layer in self.model.layers
            if hasattr(layer, "kernel")
        }
        return {"weight_norm": float(np.linalg.norm(list(norms.values()))), **norms}


keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
# The callbacks work with any Keras model.
model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(32, activation="relu", name="hidden1"),
        keras.layers.Dense(32, activation="relu", name="hidden2"),
        keras.layers.Dense(10, activation="softmax", name="main"),
    ]
)
model.compile(
    keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
)

probe = Probe(x[:32], y[:32])  # diagnostics with the same probe share its forward and backward pass
diagnostics = [WeightNorm(interval=20), GradientNorm(probe), DeadReLU(probe)]
log = DiagnosticsLog(diagnostics, "diagnostics.csv")
epochs = 1 if STEPS else 5
history = model.fit(
    x, y, epochs=epochs, steps_per_epoch=STEPS, callbacks=[*diagnostics, log], verbose=2
)
print("weight norm by epoch:", [round(value, 2) for value in history.history["weight_norm"]])
