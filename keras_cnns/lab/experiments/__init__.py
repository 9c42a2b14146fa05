"""The experiments, one file each, in the order of their numbers."""

from keras_cnns.lab.experiment import Experiment
from keras_cnns.lab.experiments.covariate_shift import EXPERIMENT as COVARIATE_SHIFT
from keras_cnns.lab.experiments.degradation import EXPERIMENT as DEGRADATION
from keras_cnns.lab.experiments.gradient_flow import EXPERIMENT as GRADIENT_FLOW
from keras_cnns.lab.experiments.inception import EXPERIMENT as INCEPTION
from keras_cnns.lab.experiments.learning_rate import EXPERIMENT as LEARNING_RATE
from keras_cnns.lab.experiments.momentum import EXPERIMENT as MOMENTUM
from keras_cnns.lab.experiments.saddle import EXPERIMENT as SADDLE
from keras_cnns.lab.experiments.shortcuts import EXPERIMENT as SHORTCUTS
from keras_cnns.suggestions import find

EXPERIMENTS: dict[str, Experiment] = {
    each.name: each
    for each in (
        DEGRADATION,
        GRADIENT_FLOW,
        SHORTCUTS,
        INCEPTION,
        LEARNING_RATE,
        MOMENTUM,
        SADDLE,
        COVARIATE_SHIFT,
    )
}


def find_experiment(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        ValueError: there is no such experiment; the message names the known ones.
    """
    return find(name, EXPERIMENTS, "experiment")
