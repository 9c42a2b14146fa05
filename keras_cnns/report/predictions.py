"""Metrics that follow from predictions: calibration, and an interval of the accuracy."""

import math
from dataclasses import dataclass

import numpy as np

BINS = 15  # of the confidence, as in Guo et al. 2017


@dataclass(frozen=True)
class Calibration:
    """How well confidence agrees with accuracy, in bins of equal width."""

    confidence: np.ndarray  # float [bins], the mean; NaN for an empty bin
    accuracy: np.ndarray  # float [bins]; NaN for an empty bin
    counts: np.ndarray  # int [bins]

    @property
    def error(self) -> float:
        """Return the expected calibration error, ECE (Guo et al. 2017, equation 3)."""
        gaps = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float(np.sum(gaps * self.counts) / max(self.counts.sum(), 1))


def calibrate(confidences: np.ndarray, is_right: np.ndarray, bins: int = BINS) -> Calibration:
    """Sort predictions [N] into bins (0, 1/bins], ..., (1 - 1/bins, 1] of confidence."""
    places = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(places, confidences, bins) / counts
        accuracy = np.bincount(places, is_right.astype(float), bins) / counts
    return Calibration(confidence, accuracy, counts)


def wilson_interval(hits: float, samples: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if not samples:
        return 0.0, 1.0
    share, extra = hits / samples, z**2 / samples
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / samples + extra / samples / 4) / (1 + extra)
    return middle - half, middle + half
