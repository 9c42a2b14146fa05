"""Evaluate, save and end with averaged weights, and with batch norm's statistics to match."""

from typing import Any

import keras
from keras import ops


class AverageWeights(keras.callbacks.Callback):
    """Put the moving averages of an optimizer with `use_ema=True` in place for each evaluation.

    Keras averages the trainable weights only. Batch normalisation's moving mean and variance are
    those of the weights as they were last, and do not fit the averaged ones. Here they are
    averaged over the same steps by the same `ema_momentum`, as timm's ModelEma does:

    ```
    average <- ema_momentum * average + (1 - ema_momentum) * statistic      after each batch
    ```

    The averages come in before an evaluation, and stay until the next training batch: a callback
    at the epoch's end, such as `SaveBest` or `ModelCheckpoint`, saves what was evaluated. After
    `fit` the model keeps them. (A saved model has the averages as its weights; training resumed
    from it goes on from these.)

    With `steps_per_execution` above 1, statistics are averaged once in so many steps.

    Raises:
        ValueError: the optimizer has no averages.

    References:
        Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging.
        Szegedy et al. 2016, Rethinking the Inception architecture (arXiv:1512.00567), section 8.
    """

    has_trained = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the statistics."""
        self.optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not self.optimizer.use_ema:
            raise ValueError("AverageWeights needs an optimizer with use_ema=True")
        self.statistics = [
            variable
            for variable in self.model.non_trainable_variables
            if variable.name in ("moving_mean", "moving_variance")
        ]
        self.has_trained = False
        self.averages: list[Any] = []  # of the statistics
        self.training_values: list[tuple[Any, Any]] = []  # while the averages are in their place

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Put back what the training had."""
        for variable, value in self.training_values:
            variable.assign(value)
        self.training_values = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Average the statistics."""
        self._fetch()
        values = [value for _, value in copies(self.statistics)]
        decay = self.optimizer.ema_momentum if self.has_trained else 0.0
        self.averages = [
            decay * average + (1 - decay) * value
            for average, value in zip(self.averages or values, values, strict=True)
        ]
        self.has_trained = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the averages in place."""
        if self.has_trained and not self.training_values:
            self._fetch()
            self.training_values = copies([*self.optimizer._trainable_variables, *self.statistics])
            self._put_averages()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the averages in place."""
        if self.has_trained:
            self._put_averages()
        self.has_trained, self.training_values = False, []

    def _put_averages(self) -> None:
        weights, averages = (
            self.optimizer._trainable_variables,
            self.optimizer._model_variables_moving_average,
        )
        for weight, average in zip(weights, averages, strict=True):
            if average is not None:
                weight.assign(ops.convert_to_numpy(average))
        for variable, value in zip(self.statistics, self.averages, strict=True):
            variable.assign(value)

    def _fetch(self) -> None:
        """Have the variables hold their values: on JAX, `fit` keeps them to itself."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()


def copies(variables: list[Any]) -> list[tuple[Any, Any]]:
    """Return each variable with its value now."""
    return [(variable, ops.convert_to_numpy(variable).copy()) for variable in variables]
