"""Compare an engine on this machine with the original model, on the version's golden samples.

The exporter has compared each format with the original model on the exporting machine. Kernels
differ between CPUs, above all for int8. The server therefore compares again, with the precision and
the number of threads that it will use.
"""

import time
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.errors import VersionRefusedError, one_line
from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.repository.manifest import Format, Manifest

from .base import Engine, Outputs, warm_up

_MAX_IMAGES = 8
_MAX_BYTES = 2**20  # maximum size of the file, unless a single sample is larger
_MAX_HEADER = 2**16  # bytes
# Maximum seconds of the check after its first sample: the remaining samples are skipped if the next
# one would probably end later. A version opens at most two engines, and each of them is checked.
_SECONDS = 0.05
_FACTOR = 2.0  # permitted difference, divided by the difference on the exporting machine
# Differences up to these are always permitted.
_MIN_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.02, "int8": 0.02}


class DisagreementError(VersionRefusedError):
    """A format disagrees with the golden samples on this machine."""


@dataclass(frozen=True)
class GoldenSamples:
    """Images, with the probabilities that the original model gives them."""

    images: NDArray[np.uint8]  # [N, H, W, C]
    probabilities: NDArray[np.float32]  # [N, K]


def read_golden(source: ModelVersion) -> GoldenSamples | None:
    """Return the golden samples of a version; None if it has none.

    Raises:
        VersionRefusedError: the file does not contain golden samples for this version.
    """
    manifest = source.manifest
    if manifest.golden is None:
        return None
    path = manifest.golden.path
    fields = [
        ("image", "u1", manifest.input.shape[1:]),
        ("probabilities", "<f4", (manifest.classes,)),
    ]
    file = source.directory / path
    # Check the size of the file first, because NumPy would read a header of any length.
    max_bytes = _MAX_HEADER + max(_MAX_BYTES, np.dtype(fields).itemsize)
    if (size := file.stat().st_size) > max_bytes:
        raise VersionRefusedError(f"{path} has {size} bytes; at most {max_bytes} are allowed")
    try:
        rows = np.lib.format.open_memmap(file, mode="r")  # does not load pickled objects
    except OSError:
        raise
    except Exception as error:  # a damaged header can raise nearly any error
        raise VersionRefusedError(f"{path} cannot be read: {one_line(error)}") from error
    is_valid = rows.dtype == np.dtype(fields) and rows.ndim == 1
    if not is_valid or not 1 <= len(rows) <= _MAX_IMAGES:
        shape = ", ".join(map(str, manifest.input.shape[1:]))
        raise VersionRefusedError(
            f"{path} must be an array of 1 to {_MAX_IMAGES} samples with the fields image (uint8 "
            f"[{shape}]) and probabilities (float32 [{manifest.classes}])"
        )
    return GoldenSamples(np.array(rows["image"]), np.array(rows["probabilities"]))


def warm_up_and_check(
    engine: Engine, manifest: Manifest, used: Format, samples: GoldenSamples | None
) -> None:
    """Warm up an engine; if there are golden samples, compare its probabilities with theirs.

    The warm-up runs the first sample. Then the other samples are run while time remains.

    Raises:
        DisagreementError: a sample cannot be run; a probability differs by more than the tolerance;
            or the engine and the original model disagree on the most probable class, and the
            original model's probabilities of these two classes differ by more than the tolerance.
            The tolerance is twice the difference that the exporter measured, and at least
            `_MIN_TOLERANCE`.
        VersionRefusedError: as for `warm_up`.
    """
    name = PurePosixPath(used.path).name
    if samples is None:
        warm_up(engine, manifest, name)
        return
    difference = manifest.golden.differences.get(used.name, 0.0) if manifest.golden else 0.0
    tolerance = max(_FACTOR * difference, _MIN_TOLERANCE[used.precision])
    began = time.perf_counter()
    outputs = warm_up(engine, manifest, name, samples.images[:1])
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    for index, expected in enumerate(samples.probabilities):
        if index:
            started = time.perf_counter()
            if started + seconds > began + _SECONDS:
                return
            outputs = _run(engine, samples.images[index : index + 1], name, index)
            seconds = time.perf_counter() - started
        problem = _difference(expected, outputs["probabilities"][0], tolerance)
        if problem:
            raise DisagreementError(
                f"{name} disagrees with the original model on golden sample {index}: {problem}"
            )


def _run(engine: Engine, image: NDArray[np.uint8], name: str, index: int) -> Outputs:
    try:
        return engine.run(image, ["probabilities"])
    except Exception as error:
        raise DisagreementError(
            f"{name} does not run on golden sample {index}: {one_line(error)}"
        ) from error


def _difference(expected: NDArray[np.float32], given: NDArray[np.float32], tolerance: float) -> str:
    """Return a description of how the probabilities [K] of an image disagree; "" if they agree."""
    first, other = int(expected.argmax()), int(given.argmax())
    largest = float(np.abs(given - expected).max())
    if not largest <= tolerance:  # also true for NaN
        return f"a probability differs by {largest:.2g}, and at most {tolerance:.2g} is allowed"
    if expected[first] - expected[other] > tolerance:
        return (
            f"its most probable class is {other} ({given[other]:.2g}); the original model gives "
            f"{expected[first]:.2g} to class {first}, and {expected[other]:.2g} to class {other}"
        )
    return ""
