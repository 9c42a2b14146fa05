"""Metrics for Prometheus: a registry with our names, and one with TensorFlow Serving's names.

Each version of a model has a recorder, which is read when Prometheus requests the metrics.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.metrics import Histogram
from keras_cnns_serve.core.servable import Servable

_PREFIX = "keras_cnns_serve_"
_VERSION = ("model", "version")
_HISTOGRAMS = {  # for each attribute of the recorder: name and help of the metric
    "latency": ("request_seconds", "Time from a request's arrival in the queue to its answer"),
    "queue": ("queue_seconds", "Time that a request waited"),
    "decode": ("decode_seconds", "Time to decode a request's images"),
    "compute": ("compute_seconds", "Time to run the batch with a request's images"),
    "batch_size": ("batch_size", "Number of images in a run"),
}

_SERVING = ":tensorflow:serving:"
_SERVING_VERSION = ("model_name", "model_version")
_SERVING_HISTOGRAMS = {  # for each attribute of the recorder: name, help and scale of the metric
    "latency": ("request_latency", "Microseconds from a request's arrival to its answer", 1e6),
    "compute": ("runtime_latency", "Microseconds to run the batch with a request's images", 1e6),
    "queue": ("batching_session:queuing_latency", "Microseconds that a request waited", 1e6),
    "batch_size": ("batching_session:processed_batch_size", "Number of images in a run", 1),
}


class Prometheus:
    """The two pages of metrics.

    Args:
        dataplane: the data plane with the versions.
        answers: the number of HTTP responses with each status, which `App` counts.
    """

    def __init__(self, dataplane: Dataplane, answers: Counter[int]) -> None:
        self._own = CollectorRegistry()
        self._own.register(_Own(dataplane, answers))
        ProcessCollector(registry=self._own)
        self._serving = CollectorRegistry()
        self._serving.register(_Serving(dataplane))

    def own(self) -> bytes:
        """Return the metrics with our names, in seconds, and the metrics of the process."""
        return generate_latest(self._own)

    def serving(self) -> bytes:
        """Return the metrics with TensorFlow Serving's names, in microseconds."""
        return generate_latest(self._serving)


class _Own:
    """Collect the metrics with our names."""

    def __init__(self, dataplane: Dataplane, answers: Counter[int]) -> None:
        self._dataplane = dataplane
        self._answers = answers

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        servables = self._dataplane.served()
        yield from _requests(servables)
        yield _engines(servables)
        yield self._states()
        ready = GaugeMetricFamily(_PREFIX + "ready", "1 while new requests are accepted, else 0")
        ready.add_metric([], float(self._dataplane.ready()))
        yield ready
        budget = self._dataplane.budget
        for name, text, value in (
            ("memory_budget_bytes", "Memory that requests can use together", budget.limit),
            ("memory_claimed_bytes", "Part of the memory budget that requests hold", budget.used),
        ):
            gauge = GaugeMetricFamily(_PREFIX + name, text)
            gauge.add_metric([], float(value))
            yield gauge
        disagreements = CounterMetricFamily(
            _PREFIX + "golden_disagreements",
            "Formats that were rejected, because they disagreed with the golden samples",
            labels=(*_VERSION, "file"),
        )
        for (model, version, file), count in list(self._dataplane.disagreements.items()):
            disagreements.add_metric([model, str(version), file], count)
        yield disagreements
        answers = CounterMetricFamily(
            _PREFIX + "http_responses", "Number of HTTP responses by status", labels=("status",)
        )
        for status, count in list(self._answers.items()):
            answers.add_metric([str(status)], count)
        yield answers

    def _states(self) -> Metric:
        states = InfoMetricFamily(_PREFIX + "version", "The state of a version", labels=_VERSION)
        for entry in self._dataplane.index():
            version = "" if entry.version is None else str(entry.version)
            info = {"state": str(entry.state), "reason": entry.reason}
            states.add_metric([entry.name, version], info)
        return states


class _Serving:
    """Collect the metrics with TensorFlow Serving's names.

    prometheus_client requires that the name of a counter ends in `_total`. The names of TensorFlow
    Serving's counters do not, so these counters are exposed as metrics without a type.
    """

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        requests = Metric(_SERVING + "request_count", "Requests by google.rpc.Code", "untyped")
        runs = Metric(":tensorflow:core:graph_runs", "Number of runs of the graph", "untyped")
        histograms = {
            name: HistogramMetricFamily(_SERVING + metric, text, labels=_SERVING_VERSION)
            for name, (metric, text, _) in _SERVING_HISTOGRAMS.items()
        }
        for servable in self._dataplane.served():
            labels = dict(zip(_SERVING_VERSION, _labels(servable), strict=True))
            for code, count in list(servable.recorder.outcomes.items()):
                requests.add_sample(requests.name, {**labels, "status": code}, count)
            runs.add_sample(runs.name, labels, servable.recorder.batch_size.total.count)
            for name, family in histograms.items():
                _add(family, servable, name, _SERVING_HISTOGRAMS[name][2])
        yield from (requests, *histograms.values(), runs)


def _requests(servables: Sequence[Servable]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        _PREFIX + "requests", "Requests by google.rpc.Code", labels=(*_VERSION, "code")
    )
    waiting = GaugeMetricFamily(_PREFIX + "waiting", "Number of waiting requests", labels=_VERSION)
    histograms = {
        name: HistogramMetricFamily(_PREFIX + metric, text, labels=_VERSION)
        for name, (metric, text) in _HISTOGRAMS.items()
    }
    for servable in servables:
        labels = _labels(servable)
        for code, count in list(servable.recorder.outcomes.items()):
            requests.add_metric([*labels, code], count)
        waiting.add_metric(labels, servable.batcher.waiting)
        for name, family in histograms.items():
            _add(family, servable, name)
    yield from (requests, waiting, *histograms.values())


def _engines(servables: Sequence[Servable]) -> Metric:
    engines = InfoMetricFamily(
        _PREFIX + "engine",
        "The file and engine of a version, and why they were chosen",
        labels=_VERSION,
    )
    for servable in servables:
        info = {name: str(value) for name, value in servable.engine_info().items()}
        engines.add_metric(_labels(servable), info)
    return engines


def _labels(servable: Servable) -> list[str]:
    return [servable.source.name, str(servable.source.version)]


def _add(
    family: HistogramMetricFamily, servable: Servable, attribute: str, scale: float = 1
) -> None:
    histogram: Histogram = getattr(servable.recorder, attribute)
    bounds = [*(f"{bound * scale:.6g}" for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    family.add_metric(_labels(servable), buckets, histogram.sum * scale)
