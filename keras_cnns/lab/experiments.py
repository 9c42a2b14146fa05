"""Experiments as data: a claim, its source, and recipes that differ in what it speaks of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_cnns.files import write_text
from keras_cnns.lab.saddle import write_saddle_page
from keras_cnns.recipes import load_recipe
from keras_cnns.report import page
from keras_cnns.report.comparison import render
from keras_cnns.report.records import Records, read_records
from keras_cnns.report.run_report import by_depth, write_report
from keras_cnns.training.trainer import train

SMALL = (
    "data.image_size=16",
    "data.resize_shorter=16",
    "training.epochs=8",
    "optimizer.learning_rate=0.05",
)
LARGE = ("training.epochs=4", "optimizer.learning_rate=0.01")


@dataclass(frozen=True)
class Experiment:
    """Trainings on the digits that differ in one thing."""

    claim: str
    source: str
    common: tuple[str, ...]  # overrides of the recipe digits-resnet20, for all
    variants: dict[str, tuple[str, ...]]  # name -> overrides of its own
    figures: dict[str, str]  # a figure of layers -> what its diagram is called


EXPERIMENTS: dict[str, Experiment | None] = {
    "depth": Experiment(
        "A deep plain net is hard to train, a residual one is not",
        "He et al. 2015, Deep Residual Learning (arXiv:1512.03385), figures 1 and 6",
        SMALL,
        {"plain56": ("model.name=plain56",), "resnet56": ("model.name=resnet56",)},
        {
            "gradient_norm": "gradient norm",
            "activation_spread": "standard deviation of activations",
        },
    ),
    "auxiliary": Experiment(
        "Auxiliary classifiers bring gradient to the first layers",
        "Szegedy et al. 2014, Going Deeper with Convolutions (arXiv:1409.4842), section 5",
        (*LARGE, "model.name=googlenet"),
        {"without": ("model.aux_heads=false",), "with": ("model.aux_heads=true",)},
        {"gradient_norm": "gradient norm"},
    ),
    "batch-norm": Experiment(
        "Batch normalisation keeps the activations of each layer where they are",
        "Ioffe and Szegedy 2015, Batch Normalization (arXiv:1502.03167), figure 1",
        LARGE,
        {"without": ("model.name=googlenet",), "with": ("model.name=googlenet_bn",)},
        {
            "activation_mean": "mean of activations",
            "activation_spread": "standard deviation of activations",
        },
    ),
    "saddle": None,  # no net: a function of two variables
}


def run_experiment(name: str, folder: Path, tell: Callable[[str], None] = print) -> Path:
    """Train what an experiment compares, and return its page.

    Args:
        name: a key of `EXPERIMENTS`.
        folder: for the page, and below it a run directory for each variant; those that are
            finished already are not trained again.
        tell: where a line about what comes next goes.

    Raises:
        OSError: the folder cannot be written.
        RunError: it holds something else.
    """
    path = folder / f"{name}.html"
    experiment = EXPERIMENTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    if experiment is None:
        write_saddle_page(path)
        return path
    runs: dict[str, Records] = {}
    for variant, overrides in experiment.variants.items():
        tell(f"{name}: {variant}")
        recipe = load_recipe("digits-resnet20", (*experiment.common, *overrides))
        run = train(recipe, folder / name / variant)
        if run.predictions:  # else it was finished before
            write_report(run.path, run.predictions)
        runs[variant] = read_records(run.path)
    sections = [
        page.Section(
            "By depth",
            "A line for each moment of the training.",
            page.charts(
                by_depth(
                    records,
                    f"{variant}: {words}",
                    figure,
                    words,
                    log=True,
                    limits=common_limits(list(runs.values()), figure),
                )
                for figure, words in experiment.figures.items()
                for variant, records in runs.items()
            ),
        )
    ]
    write_text(path, render(runs, experiment.claim, experiment.source, sections))
    return path


def common_limits(runs: list[Records], figure: str) -> tuple[float, float] | None:
    """Return a range that holds a figure of every run, with some room; above 0, for logarithms."""
    values = np.concatenate([records.by_layer(figure).ravel() for records in runs])
    values = values[values > 0]
    return (values.min() / 1.3, values.max() * 1.3) if values.size else None
