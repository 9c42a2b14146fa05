"""What Prometheus reads: by our own names, and by TensorFlow Serving's.

Nothing is done while requests run: what the versions' recorders hold is written when it is asked
for.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from .dataplane import Dataplane
from .metrics import Histogram
from .servable import Servable

PREFIX = "keras_cnns_serve_"
VERSION = ("model", "version")
HISTOGRAMS = {  # attribute of the recorder -> what it is
    "latency": ("request_seconds", "From a request's arrival in the queue to its answer"),
    "queue": ("queue_seconds", "What a request waited"),
    "decode": ("decode_seconds", "What decoding a request's images took"),
    "compute": ("compute_seconds", "What the run of a request's batch took"),
    "batch_size": ("batch_size", "Images in a run"),
}


class Prometheus:
    """The two pages.

    Args:
        dataplane: whose versions are told of.
        answers: HTTP answers by status, counted elsewhere.
    """

    def __init__(self, dataplane: Dataplane, answers: Counter[int]) -> None:
        self._dataplane = dataplane
        self._answers = answers
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def own(self) -> bytes:
        """By our own names, in seconds, and the process besides."""
        return generate_latest(self._registry)

    def serving(self) -> str:
        """By TensorFlow Serving's names, in microseconds."""
        return "".join(f"{line}\n" for line in self._serving())

    def collect(self) -> Iterator[Metric]:
        """Everything but the process, as prometheus_client wants it."""
        requests = CounterMetricFamily(
            PREFIX + "requests", "Requests by google.rpc.Code", labels=(*VERSION, "code")
        )
        waiting = GaugeMetricFamily(PREFIX + "waiting", "Requests that wait", labels=VERSION)
        histograms = {
            name: HistogramMetricFamily(PREFIX + metric, text, labels=VERSION)
            for name, (metric, text) in HISTOGRAMS.items()
        }
        for servable in self._servables():
            labels = [servable.source.name, str(servable.source.version)]
            for code, count in list(servable.recorder.outcomes.items()):
                requests.add_metric([*labels, code], count)
            waiting.add_metric(labels, servable.batcher.waiting)
            for name, family in histograms.items():
                histogram: Histogram = getattr(servable.recorder, name)
                family.add_metric(labels, _buckets(histogram), histogram.sum)
        yield from (requests, waiting, *histograms.values())
        states = InfoMetricFamily(PREFIX + "version", "The state of every version", labels=VERSION)
        for entry in self._dataplane.index():
            version = "" if entry.version is None else str(entry.version)
            told = {"state": str(entry.state), "reason": entry.reason}
            states.add_metric([entry.name, version], told)
        yield states
        ready = GaugeMetricFamily(PREFIX + "ready", "Whether requests are welcome")
        ready.add_metric([], float(self._dataplane.ready()))
        yield ready
        answers = CounterMetricFamily(PREFIX + "http_responses", "HTTP", labels=("status",))
        for status, count in list(self._answers.items()):
            answers.add_metric([str(status)], count)
        yield answers

    def _servables(self) -> Iterator[Servable]:
        for model in self._dataplane.manager.models.values():
            for servable in model.versions.values():
                servable.recorder.settle()
                yield servable

    def _serving(self) -> Iterator[str]:
        servables = list(self._servables())
        prefix = ":tensorflow:serving:"
        yield f"# TYPE {prefix}request_count counter"
        for servable in servables:
            for code, count in list(servable.recorder.outcomes.items()):
                labels = f"{_version(servable)},status={_quoted(code)}"
                yield f"{prefix}request_count{{{labels}}} {count}"
        for name, attribute in {
            "request_latency": "latency",
            "runtime_latency": "compute",
            "batching_session:queuing_latency": "queue",
        }.items():
            yield from _histogram(prefix + name, attribute, servables, 1e6)
        yield from _histogram(
            prefix + "batching_session:processed_batch_size", "batch_size", servables, 1
        )
        yield "# TYPE :tensorflow:core:graph_runs counter"
        for servable in servables:
            runs = sum(servable.recorder.batch_size.counts)
            yield f":tensorflow:core:graph_runs{{{_version(servable)}}} {runs}"


def _histogram(
    name: str, attribute: str, servables: Iterable[Servable], scale: float
) -> Iterator[str]:
    yield f"# TYPE {name} histogram"
    for servable in servables:
        labels = _version(servable)
        histogram: Histogram = getattr(servable.recorder, attribute)
        count = 0.0
        for bound, count in _buckets(histogram, scale):
            yield f'{name}_bucket{{{labels},le="{bound}"}} {count:.0f}'
        yield f"{name}_sum{{{labels}}} {histogram.sum * scale}"
        yield f"{name}_count{{{labels}}} {count:.0f}"


def _buckets(histogram: Histogram, scale: float = 1) -> list[tuple[str, float]]:
    """Upper bounds with the count of all below."""
    bounds = [*(f"{bound * scale:.6g}" for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def _version(servable: Servable) -> str:
    name, version = servable.source.name, servable.source.version
    return f'model_name={_quoted(name)},model_version="{version}"'


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'
