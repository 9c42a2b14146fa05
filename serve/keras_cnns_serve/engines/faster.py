"""Find the format that is fastest on this machine.

The times in model.json were measured on the exporting machine. CPUs differ, above all in the speed
of int8, so the formats are measured again on the serving machine.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from keras_cnns_serve.errors import VersionRefusedError
from keras_cnns_serve.repository.files import ModelVersion
from keras_cnns_serve.repository.manifest import Manifest

from .base import LoadedEngine, black_image
from .choice import EngineOptions, Loaded, list_alternatives, load_format, open_format
from .golden import read_golden
from .threads import is_calm, time_run

logger = logging.getLogger(__name__)

_MIN_GAIN = 1.2  # minimum speedup of a format that replaces the one in use
_ROUNDS = 3  # number of alternating measurements of two formats


class NotCalmError(Exception):
    """Other work on this machine prevents a measurement."""


def find_fastest(
    source: ModelVersion,
    options: EngineOptions,
    used: Loaded,
    calm: Callable[[int], bool] = is_calm,
) -> Loaded:
    """Load and return the proven format that is fastest on this machine.

    A format is proven if model.json shows that it is accurate. Every other requested and proven
    format is opened with as many threads as the format in use has, and both are timed on single
    images. Three kinds of formats are skipped: those that cannot be opened here, those that
    disagree with the golden samples, and TensorFlow's format, which is slow on every CPU.

    Args:
        source: the version.
        options: the engine options of the command line.
        used: the format in use.
        calm: returns whether a given number of cores is free.

    Returns:
        The fastest format if it is at least `_MIN_GAIN` times as fast as `used`. Otherwise `used`,
        with the result of the comparison in its reason.

    Raises:
        NotCalmError: the machine was not calm before or after a comparison.
        VersionRefusedError: the fastest format cannot be loaded completely.
    """
    requested = (options.engine, options.precision)
    others = [
        each
        for each in list_alternatives(source.manifest, used.format, *requested)
        if each.engine != "tensorflow"
    ]
    if others and not calm(options.cores):
        raise NotCalmError
    samples = read_golden(source)
    best, fastest = _MIN_GAIN, used.format
    compared = []
    for other in others:
        try:
            engine = open_format(source, options, other, samples, used.threads)
        except VersionRefusedError as error:
            logger.debug("%s/%d: %s", source.name, source.version, error)
            continue
        gain = _compare(used.engine, engine, source.manifest, options.cores, calm)
        compared.append(other.name)
        if gain >= best:
            best, fastest = gain, other
    if not compared:
        return used
    if fastest is used.format:
        verb = "is" if len(compared) == 1 else "are"
        reason = f"{' and '.join(compared)} {verb} not {_MIN_GAIN} times as fast on this machine"
        return replace(used, format_reason=f"{used.format_reason}; {reason}")
    reason = f"{best:.1f} times as fast on this machine as {used.format.name}"
    return load_format(source, options, fastest, samples, reason, used.notice)


def _compare(
    used: LoadedEngine,
    other: LoadedEngine,
    manifest: Manifest,
    cores: int,
    calm: Callable[[int], bool],
) -> float:
    """Return the speedup of the other engine over `used` on a single image.

    Raises:
        NotCalmError: the machine was not calm before or after the measurement.
    """
    image = black_image(manifest)
    if calm(cores):
        rounds = [(time_run(used, image), time_run(other, image)) for _ in range(_ROUNDS)]
        if calm(cores):
            return min(first for first, _ in rounds) / min(second for _, second in rounds)
    raise NotCalmError
