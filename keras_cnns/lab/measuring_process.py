"""A process that measures seeds, with one thread.

TensorFlow is imported in functions only, so that the messages of its import can be suppressed.
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TYPE_CHECKING

from keras_cnns.quiet import quiet_stderr

if TYPE_CHECKING:
    from keras_cnns.lab.experiment import Settings

# Receives the index of a seed in this run, the finished fraction of the seed's measurements, and a
# text that names what is running.
Reports = SimpleQueue[tuple[int, float, str]]

_reports: Reports


def prepare(reports: Reports) -> None:
    """Limit this process to one thread, and let it end with its parent."""
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with quiet_stderr():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            tf.config.list_logical_devices()  # which creates the devices, with messages


def measure_here(index: int, name: str, settings: "Settings", seed: int, folder: Path) -> float:
    """Measure a seed of the named experiment in this process, and return its duration.

    Args:
        index: the number with which the progress is reported.
        name: the name of the experiment.
        settings: the settings of the run.
        seed: the seed.
        folder: the folder of the cache.
    """
    from keras_cnns.lab.experiments import find_experiment
    from keras_cnns.lab.measuring import measure

    def report(fraction: float, what: str) -> None:
        _reports.put((index, fraction, what))

    return measure(folder, find_experiment(name), settings, seed, report)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
