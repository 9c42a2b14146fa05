"""Intervals of proportions, such as an accuracy measured on a number of images."""

from scipy.stats import binomtest


def wilson_interval(hits: float, trials: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a proportion (Wilson 1927)."""
    interval = binomtest(round(hits), trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def format_interval(hits: float, trials: int) -> str:
    """Return `wilson_interval` as text; "-" without trials."""
    if not trials:
        return "-"
    low, high = wilson_interval(hits, trials)
    return f"{low:.1%} to {high:.1%}"
