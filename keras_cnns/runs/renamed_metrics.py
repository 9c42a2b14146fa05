"""Metrics of earlier versions and the metrics that replace them.

A run directory contains the names of metrics as columns of its CSV files and in the state of
callbacks in its checkpoints.
"""

from typing import Any

_RENAMED_METRICS = {"activation_spread": "activation_std"}


def current_name(name: str) -> str:
    """Return the current name of a metric or column: `metric` or `metric/layer`."""
    metric, slash, layer = name.partition("/")
    return f"{_RENAMED_METRICS.get(metric, metric)}{slash}{layer}"


def rename_old_metrics(value: Any) -> Any:
    """Return a copy of nested dicts and lists, in which the keys are current names of metrics."""
    if isinstance(value, dict):
        return {
            current_name(key) if isinstance(key, str) else key: rename_old_metrics(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [rename_old_metrics(each) for each in value]
    return value
