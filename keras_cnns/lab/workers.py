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

from keras_cnns.cores import available_cores
from keras_cnns.lab.experiment import Experiment, Settings
from keras_cnns.lab.measuring import measure
from keras_cnns.lab.measuring_process import Reports, measure_here, prepare

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
    """Return the number of processes for this machine: one for each core, or 1 with a GPU.

    Several processes would compete for the memory of the GPU.
    """
    if keras.distribution.list_devices("gpu"):
        return 1
    return min(maximum, available_cores())


def measure_all(seeds: Iterator[Seed], processes: int, report: SeedReport) -> Iterator[Seed]:
    """Measure seeds, and yield each one when its measurements are in the cache.

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
            measure(each.folder, each.experiment, each.settings, each.seed, partial(report, each))
            yield each
        return
    context = multiprocessing.get_context("spawn")
    reports: Reports = context.SimpleQueue()
    started: list[Seed] = []
    with ProcessPoolExecutor(processes, context, prepare, (reports,)) as pool:

        def start(count: int) -> dict[Future[None], Seed]:
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
                    future.result()  # raises the error of the measurement
                    yield each
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
