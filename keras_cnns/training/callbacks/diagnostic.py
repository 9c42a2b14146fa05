"""What the callbacks that look into a net have in common."""

from typing import Any

import keras

from keras_cnns.training.callbacks.probe import Pass, Probe, Tensors

INTERVAL = 100  # steps; a measurement costs about a step and a half on the probe's batch

STATE = ("step", "measured_at", "is_new", "figures")


class Diagnostic(keras.callbacks.Callback):
    """Take figures of a net in training, each `interval` steps, before the step.

    A figure that a layer has is named `figure/layer`, one of the whole net `figure`. At the end of
    an epoch the latest go into its logs, and so into `History` and `CSVLogger`: of the whole net,
    and with `layers_in_logs` of each layer too (which Keras' own progress bar would print).

    Args:
        interval: steps from one measurement to the next; the first is before the first step.
        layers_in_logs: give the layers' figures to the epoch's logs too.

    Attributes:
        figures: the latest, by name.
        measured_at: the number of steps that had been taken before; None before the first.
        is_new: they are of the step that runs, or ended last.
        step: the number of steps taken so far.
    """

    def __init__(self, *, interval: int = INTERVAL, layers_in_logs: bool = False) -> None:
        super().__init__()
        if interval < 1:
            raise ValueError(f"interval is {interval}; it must be at least 1 step")
        self.interval, self.layers_in_logs = interval, layers_in_logs
        self.figures: dict[str, float] = {}
        self.measured_at: int | None = None
        self.is_new = False
        self.step = 0
        self._first_batch = 0

    def get_state(self) -> dict[str, Any]:
        """Return what training that goes on elsewhere must know."""
        return {name: getattr(self, name) for name in STATE}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that `get_state` returned."""
        for name in STATE:
            setattr(self, name, state[name])

    def measure(self) -> dict[str, float]:
        """Return the figures now."""
        raise NotImplementedError

    def is_due(self) -> bool:
        """Say whether the interval is over."""
        if self.measured_at is None:
            return True
        return self.step // self.interval > self.measured_at // self.interval

    def keep(self, figures: dict[str, float]) -> None:
        """Make these the latest."""
        self.figures, self.measured_at, self.is_new = figures, self.step, True

    def begin_step(self, batch: int) -> None:
        """Note that a step begins."""
        self._first_batch, self.is_new = batch, False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, where it is time."""
        self.begin_step(batch)
        if self.is_due():
            self.keep(self.measure())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count; with `steps_per_execution` many steps are one call."""
        self.step += batch - self._first_batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Give the latest figures to the logs."""
        if logs is not None:
            for name, value in self.figures.items():
                if self.layers_in_logs or "/" not in name:
                    logs[name] = value


class ProbeDiagnostic(Diagnostic):
    """A diagnostic that runs the net on a probe; diagnostics with one probe share its passes.

    Args:
        probe: the batch to look at.
        options: those of `Diagnostic`.
    """

    layer_figures: tuple[str, ...]  # what `look` returns for layers

    def __init__(self, probe: Probe, **options: Any) -> None:
        super().__init__(**options)
        self.probe = probe
        probe.add(self.look)

    def look(self, seen: Pass) -> Tensors:
        """Return figures of layers as tensors, from one pass; compiled with it."""
        raise NotImplementedError

    def summarise(self, figures: dict[str, dict[str, float]]) -> dict[str, float]:
        """Return figures of the whole net from those of the layers: {figure: {layer: value}}."""
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Have the pass compiled anew: the model may have been, too."""
        self.probe.forget()

    def measure(self) -> dict[str, float]:
        """Run the probe, once for all its diagnostics in a step."""
        everything = self.probe.run(self.model, self.step)
        layers: dict[str, dict[str, float]] = {name: {} for name in self.layer_figures}
        for name, value in everything.items():
            figure, _, layer = name.partition("/")
            if figure in layers:
                layers[figure][layer] = value
        flat = {f"{name}/{layer}": v for name, each in layers.items() for layer, v in each.items()}
        return self.summarise(layers) | flat
