"""The lecture's claims as experiments: small trainings that support a claim, or do not."""

from keras_cnns.lab.experiments import EXPERIMENTS, run_experiment

__all__ = ["EXPERIMENTS", "run_experiment"]
