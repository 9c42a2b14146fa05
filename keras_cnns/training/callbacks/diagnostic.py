"""What the callbacks that measure inside of a model have in common."""

from typing import Any

import keras

from keras_cnns.training.callbacks.probe import Pass, Probe, Tensors

INTERVAL = 100  # steps; a measurement costs about a step and a half on the probe's batch

STATE = ("step", "measured_at", "is_new", "is_of_epoch", "figures")


class Diagnostic(keras.callbacks.Callback):
    """Measure a model in training every `interval` steps, before the step.

    A metric of one layer is named `metric/layer`, one of the whole model `metric`. At the end of an
    epoch the latest ones measured in it go into its logs, and so into `History` and `CSVLogger`:
    those of the whole model, and with `layers_in_logs` also those of each layer (which Keras'
    progress bar would print). An epoch without a measurement has none.

    Args:
        interval: steps between measurements; the first is before the first step.
        layers_in_logs: also add the metrics of the layers to the epoch's logs.

    Attributes:
        figures: the latest values, by name.
        measured_at: number of steps taken before they were measured; None before the first time.
        is_new: they were measured in the current step, or in the one that ended last.
        is_of_epoch: they were measured in the current epoch.
        step: number of steps taken so far.
    """

    def __init__(self, *, interval: int = INTERVAL, layers_in_logs: bool = False) -> None:
        super().__init__()
        if interval < 1:
            raise ValueError(f"interval is {interval}; it must be at least 1 step")
        self.interval, self.layers_in_logs = interval, layers_in_logs
        self.figures: dict[str, float] = {}
        self.measured_at: int | None = None
        self.is_new = self.is_of_epoch = False
        self.step = 0
        self._first_batch = 0

    def get_state(self) -> dict[str, Any]:
        """Return the state that a resumed training needs."""
        return {name: getattr(self, name) for name in STATE}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `get_state` returned."""
        for name in STATE:
            if name in state:  # checkpoints of version 0.1 lack `is_of_epoch`
                setattr(self, name, state[name])

    def measure(self) -> dict[str, float]:
        """Return the current values."""
        raise NotImplementedError

    def is_due(self) -> bool:
        """Return whether the interval is over."""
        if self.measured_at is None:
            return True
        return self.step // self.interval > self.measured_at // self.interval

    def keep(self, figures: dict[str, float]) -> None:
        """Make these the latest values."""
        self.figures, self.measured_at = figures, self.step
        self.is_new = self.is_of_epoch = True

    def begin_step(self, batch: int) -> None:
        """Note that a step begins."""
        self._first_batch, self.is_new = batch, False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note that nothing was measured in this epoch yet."""
        self.is_of_epoch = False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, if a measurement is due."""
        self.begin_step(batch)
        if self.is_due():
            self.keep(self.measure())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the steps; with `steps_per_execution` one call stands for several."""
        self.step += batch - self._first_batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the latest values to the logs, if they were measured in this epoch."""
        if logs is not None and self.is_of_epoch:
            for name, value in self.figures.items():
                if self.layers_in_logs or "/" not in name:
                    logs[name] = value


class ProbeDiagnostic(Diagnostic):
    """A diagnostic that runs the model on a probe; diagnostics with one probe share its passes.

    Args:
        probe: the batch to run the model on.
        options: those of `Diagnostic`.
    """

    layer_figures: tuple[str, ...]  # names of the metrics that `look` returns for layers

    def __init__(self, probe: Probe, **options: Any) -> None:
        super().__init__(**options)
        self.probe = probe
        probe.add(self.look)

    def look(self, seen: Pass) -> Tensors:
        """Return metrics of layers as tensors, from one pass; compiled with it."""
        raise NotImplementedError

    def summarise(self, figures: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return metrics of the whole model from those of the layers: {metric: {layer: value}}."""
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Drop the compiled pass: the model may have been compiled again, too."""
        self.probe.forget()

    def measure(self) -> dict[str, float]:
        """Run the probe once per step, for all its diagnostics."""
        everything = self.probe.run(self.model, self.step)
        layers: dict[str, dict[str, float]] = {name: {} for name in self.layer_figures}
        for name, value in everything.items():
            figure, _, layer = name.partition("/")
            if figure in layers:
                layers[figure][layer] = value
        flat = {f"{name}/{layer}": v for name, each in layers.items() for layer, v in each.items()}
        return self.summarise(layers) | flat
