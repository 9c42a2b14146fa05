"""The size of a step relative to the weights, for each layer."""

from statistics import median
from typing import Any

import numpy as np
from keras import ops

from keras_cnns.training.callbacks.diagnostic import Diagnostic
from keras_cnns.training.callbacks.probe import kernels, leaf_layers
from keras_cnns.training.variables import fetch_variables


class UpdateRatio(Diagnostic):
    """Measure |w_after - w_before| / |w_before| of each kernel over one training step.

    The ratio is usually about 1e-3. If it is far lower, the layer hardly learns; if it is far
    higher, the learning rate is too high. With `steps_per_execution`, the ratio is measured over
    all steps of an execution together.

    Metrics: `update_ratio/layer`; `update_ratio`, the median over the layers. Frozen layers have
    the ratio 0 and are included in the median.

    References:
        Karpathy, CS231n, Neural networks part 3, "Ratio of weights:updates".
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._before: dict[str, list[np.ndarray]] | None = None

    def get_state(self) -> dict[str, Any]:
        """Return the state of a diagnostic, and whether the current step is measured."""
        return super().get_state() | {"is_measuring": self._before is not None}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state, at the beginning of the step in which it was captured."""
        super().set_state(state)
        self._before = self._weights() if state["is_measuring"] else None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Copy the weights if a measurement is due."""
        self.begin_step(batch)
        if self.is_due():
            self._before = self._weights()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Compare the copied weights with the weights after the step."""
        if self._before is not None:
            self.record(self.measure())
            self._before = None
        super().on_train_batch_end(batch, logs)

    def measure(self) -> dict[str, float]:
        """Return the ratios since the weights were copied."""
        before, after = self._before or {}, self._weights()
        ratios = {
            layer: _norm([b - a for a, b in zip(old, after[layer], strict=True)]) / size
            for layer, old in before.items()
            if (size := _norm(old))
        }
        summary = {"update_ratio": median(ratios.values())} if ratios else {}
        return summary | {f"update_ratio/{layer}": ratio for layer, ratio in ratios.items()}

    def _weights(self) -> dict[str, list[np.ndarray]]:
        fetch_variables(self.model)
        return {
            name: [np.array(ops.convert_to_numpy(each), "float32") for each in found]
            for name, layer in leaf_layers(self.model).items()
            if (found := kernels(layer))
        }


def _norm(arrays: list[np.ndarray]) -> float:
    """Return the L2 norm over all arrays together."""
    return float(sum(np.vdot(array, array) for array in arrays) ** 0.5)
