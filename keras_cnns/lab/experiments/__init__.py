"""The experiments: one file each, found by its name."""

import importlib
import pkgutil

from keras_cnns.lab.experiment import Experiment
from keras_cnns.suggestions import find


def load_experiments() -> dict[str, Experiment]:
    """Return all experiments by their names, in the order of the lecture."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    experiments = sorted((module.EXPERIMENT for module in modules), key=lambda each: each.number)
    return {experiment.name: experiment for experiment in experiments}


def find_experiment(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        ValueError: there is no such experiment; the message names the known ones.
    """
    return find(name, load_experiments(), "experiment")
