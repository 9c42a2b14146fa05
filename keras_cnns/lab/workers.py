"""Measure several seeds at the same time, each in a process with one thread.

The networks are small. Two processes that have one thread each therefore measure about 1.4 times as
many seeds per hour as one process that has two threads.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import keras
import psutil

from keras_cnns.cores import available_cores
from keras_cnns.lab.experiment import Experiment, Settings
from keras_cnns.lab.measuring import measure
from keras_cnns.lab.measuring_process import Reports, measure_here, prepare

_PROCESS_BYTES = 2 << 30  # memory of a process that measures
_REPORT_SECONDS = 0.2  # the time after which the reports of the processes are read again


@dataclass(frozen=True)
class Seed:
    """One seed of an experiment, which is to be measured."""

    experiment: Experiment
    settings: Settings
    seed: int
    folder: Path


# Receives a seed that is being measured, the finished fraction of its measurements, and a text that
# names what is running.
SeedReport = Callable[[Seed, float, str], None]


def default_processes(maximum: int) -> int:
    """Return the number of processes for this machine: one for each core, if the memory suffices.

    With a GPU, the number is 1, because several processes would compete for its memory. It is also
    1 with other backends than TensorFlow, whose number of threads cannot be limited in a process.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return 1
    by_memory = int(psutil.virtual_memory().available) // _PROCESS_BYTES
    return max(1, min(maximum, available_cores(), by_memory))


def measure_all(
    seeds: Iterator[Seed], processes: int, report: SeedReport
) -> Iterator[tuple[Seed, float]]:
    """Measure seeds, and yield each one and its duration when its measurements are in the cache.

    Args:
        seeds: what to measure. The next item is taken when a process can start with it.
        processes: the number of seeds that are measured at the same time. With 1, they are measured
            in this process, with as many threads as the backend chooses.
        report: receives the progress.

    Raises:
        OSError: the folder cannot be written, or the system has ended a process, for example for
            lack of memory.
        ValueError: the images cannot be read.
    """
    if processes == 1:
        for each in seeds:
            arguments = (each.folder, each.experiment, each.settings, each.seed)
            yield each, measure(*arguments, partial(report, each))
        return
    context = multiprocessing.get_context("spawn")
    reports: Reports = context.SimpleQueue()
    started: list[Seed] = []
    with ProcessPoolExecutor(processes, context, prepare, (reports,)) as pool:

        def start(count: int) -> dict[Future[float], Seed]:
            new = {}
            for each in islice(seeds, count):
                arguments = (each.experiment.name, each.settings, each.seed, each.folder)
                new[pool.submit(measure_here, len(started), *arguments)] = each
                started.append(each)
            return new

        try:
            running = start(processes)
            while running:
                finished, _ = wait(running, _REPORT_SECONDS, FIRST_COMPLETED)
                while not reports.empty():
                    index, fraction, what = reports.get()
                    report(started[index], fraction, what)
                for future in finished:
                    each = running.pop(future)
                    yield each, future.result()  # or raises the error of the measurement
                running |= start(processes - len(running))
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process of the measurement has ended unexpectedly, perhaps for lack of memory; "
                "fewer processes need less memory: --processes 1"
            ) from error
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
