"""Evaluate and save averaged weights, with averaged batch-norm statistics."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cnns.keras_internals import averaged_variables
from keras_cnns.training.backend import compile_function
from keras_cnns.training.variables import fetch_variables, inner_optimizer


class AverageWeights(keras.callbacks.Callback):
    """Use the moving averages of an optimizer with `use_ema=True` in each evaluation.

    Keras averages only the trainable weights. The moving mean and variance of batch normalisation
    belong to the latest weights and do not fit the averaged weights. This callback averages these
    statistics over the same steps with the same `ema_momentum`, as timm's ModelEma does:

    ```
    average <- ema_momentum * average + (1 - ema_momentum) * statistic      after each batch
    ```

    The averages are assigned to the model before an evaluation and stay there until the next
    training batch, so that a callback at the end of the epoch, such as `SaveBest` or
    `ModelCheckpoint`, saves the evaluated weights. After `fit`, the model has the averages. (A
    training that starts from a model saved in this way starts from the averages.)

    With `steps_per_execution` above 1, statistics are averaged once per execution. The averages
    stay on the device of the statistics.

    Raises:
        ValueError: the optimizer has no averages.

    References:
        Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging.
        Szegedy et al. 2016, Rethinking the Inception architecture (arXiv:1512.00567), section 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.has_trained = False
        self.averages: Any = None  # the averages of all statistics, in one tensor [D]
        # Pairs of a variable and its value in training, while the average replaces the value.
        self.training_values: list[tuple[Any, Any]] = []

    def get_state(self) -> dict[str, Any]:
        """Return the averages of the statistics; the optimizer saves the averaged weights."""
        return {"has_trained": self.has_trained, "averages": self._separate_averages()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `get_state` returned."""
        self.has_trained = state["has_trained"]
        if state["averages"]:
            flat = np.concatenate([np.ravel(each) for each in state["averages"]])
            self.averages = ops.convert_to_tensor(flat)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the statistics."""
        self.optimizer = inner_optimizer(self.model)
        if not self.optimizer.use_ema:
            raise ValueError("AverageWeights needs an optimizer with use_ema=True")
        self.statistics = [
            variable
            for variable in self.model.non_trainable_variables
            if variable.name in ("moving_mean", "moving_variance")
        ]
        self.has_trained, self.averages, self.training_values = False, None, []
        decay = self.optimizer.ema_momentum
        # All statistics are averaged in one compiled call, because a separate call for each
        # of them would take longer than the computation itself.
        self._flatten = compile_function(_flatten)
        self._average = compile_function(
            lambda averages, values: decay * averages + (1 - decay) * _flatten(values)
        )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Assign the values of the training again, in place of the averages."""
        for variable, value in self.training_values:
            variable.assign(value)
        self.training_values = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Average the statistics."""
        fetch_variables(self.model)
        values = [variable.value for variable in self.statistics]
        if self.averages is not None:
            self.averages = self._average(self.averages, values)
        elif values:
            self.averages = self._flatten(values)
        self.has_trained = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Assign the averages."""
        if self.has_trained and not self.training_values:
            fetch_variables(self.model)
            averaged = [weight for weight, _ in averaged_variables(self.optimizer)]
            self.training_values = [
                (variable, ops.convert_to_numpy(variable).copy())
                for variable in (*averaged, *self.statistics)
            ]
            self._assign_averages()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Assign the averages to the model."""
        if self.has_trained:
            self._assign_averages()
        self.has_trained, self.training_values = False, []

    def _assign_averages(self) -> None:
        for weight, average in averaged_variables(self.optimizer):
            if average is not None:
                weight.assign(ops.convert_to_numpy(average))
        for variable, value in zip(self.statistics, self._separate_averages(), strict=True):
            variable.assign(value)

    def _separate_averages(self) -> list[np.ndarray]:
        """Return the average of each statistic; [] before the first step."""
        if self.averages is None:
            return []
        ends = np.cumsum([math.prod(variable.shape) for variable in self.statistics])
        parts = np.split(ops.convert_to_numpy(self.averages), ends[:-1])
        return [
            part.reshape(variable.shape)
            for part, variable in zip(parts, self.statistics, strict=True)
        ]


def _flatten(values: list[Any]) -> Any:
    """Return the values of tensors as one tensor [D]."""
    return ops.concatenate([ops.reshape(value, (-1,)) for value in values])
