"""The base classes of the callbacks that measure a model in training."""

from typing import Any

from keras_cnns.training.callbacks.probe import Pass, Probe, Tensors
from keras_cnns.training.callbacks.step_counter import StepCounter

# Steps between two measurements. A measurement takes about as long as 1.5 training steps on the
# probe's batch.
INTERVAL = 100

# Key of the state in a checkpoint -> attribute.
_STATE = {
    "step": "step",
    "measured_at": "measured_at",
    "is_new": "is_new",
    "is_of_epoch": "is_of_epoch",
    "figures": "metrics",
}


class Diagnostic(StepCounter):
    """Measure a model during training, before every `interval`-th step.

    A metric of a layer is named `metric/layer`, and a metric of the whole model `metric`. At the
    end of an epoch, the latest metrics of the whole model are added to the logs, and thus to
    `History` and `CSVLogger`. With `layers_in_logs`, the metrics of the layers are added too
    (Keras' progress bar then prints them). Nothing is added if nothing was measured in the epoch.

    Args:
        interval: steps between measurements. The first measurement precedes the first step.
        layers_in_logs: also add the metrics of the layers to the epoch's logs.

    Attributes:
        metrics: name -> latest value.
        measured_at: number of steps taken before the latest measurement; None before the first one.
        is_new: whether the latest measurement was made in the current or the last finished step.
        is_of_epoch: whether the latest measurement was made in the current epoch.
        step: number of steps taken so far.
    """

    def __init__(self, *, interval: int = INTERVAL, layers_in_logs: bool = False) -> None:
        super().__init__()
        if interval < 1:
            raise ValueError(f"interval is {interval}; it must be at least 1 step")
        self.interval, self.layers_in_logs = interval, layers_in_logs
        self.metrics: dict[str, float] = {}
        self.measured_at: int | None = None
        self.is_new = self.is_of_epoch = False

    def get_state(self) -> dict[str, Any]:
        """Return the state that a resumed training needs."""
        return {key: getattr(self, name) for key, name in _STATE.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `get_state` returned."""
        for key, name in _STATE.items():
            if key in state:  # checkpoints of version 0.1 lack `is_of_epoch`
                setattr(self, name, state[key])

    def measure(self) -> dict[str, float]:
        """Return the current values of the metrics."""
        raise NotImplementedError

    def is_due(self) -> bool:
        """Return whether a measurement is due."""
        if self.measured_at is None:
            return True
        return self.step // self.interval > self.measured_at // self.interval

    def record(self, metrics: dict[str, float]) -> None:
        """Store metrics as the latest measurement."""
        self.metrics, self.measured_at = metrics, self.step
        self.is_new = self.is_of_epoch = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record that nothing has been measured in this epoch yet."""
        self.is_of_epoch = False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, if a measurement is due."""
        self.begin_step(batch)
        if self.is_due():
            self.record(self.measure())

    def begin_step(self, batch: int) -> None:
        """Record the beginning of a step, in which nothing has been measured yet."""
        super().on_train_batch_begin(batch)
        self.is_new = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the latest metrics to the logs if they were measured in this epoch."""
        if logs is not None and self.is_of_epoch:
            for name, value in self.metrics.items():
                if self.layers_in_logs or "/" not in name:
                    logs[name] = value


class ProbeDiagnostic(Diagnostic):
    """A diagnostic that runs the model on a probe's batch, once for all diagnostics of the probe.

    Args:
        probe: the probe with the batch on which the model is run.
        options: the options of `Diagnostic`.
    """

    layer_metrics: tuple[str, ...]  # the names of the metrics that `compute` returns for layers

    def __init__(self, probe: Probe, **options: Any) -> None:
        super().__init__(**options)
        self.probe = probe
        probe.add(self.compute)

    def compute(self, tensors: Pass) -> Tensors:
        """Return metrics of layers, as scalar tensors; this function is compiled with the pass."""
        raise NotImplementedError

    def summarise(self, metrics: dict[str, dict[str, float]]) -> dict[str, float]:
        """Compute metrics of the whole model from layer metrics, {metric: {layer: value}}."""
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Drop the compiled pass, because the model may have been recompiled."""
        self.probe.forget()

    def measure(self) -> dict[str, float]:
        """Return the metrics of the probe, which is run once per step for all its diagnostics."""
        layers: dict[str, dict[str, float]] = {name: {} for name in self.layer_metrics}
        for name, value in self.probe.run(self.model, self.step).items():
            metric, _, layer = name.partition("/")
            if metric in layers:
                layers[metric][layer] = value
        flat = {f"{name}/{layer}": v for name, each in layers.items() for layer, v in each.items()}
        return self.summarise(layers) | flat
