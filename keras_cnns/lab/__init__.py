"""The lecture's claims as experiments: tiny trainings that show them, or do not."""

from keras_cnns.lab.experiments import EXPERIMENTS, run_experiment

__all__ = ["EXPERIMENTS", "run_experiment"]
