"""Experiments as data: a claim, its source, and recipes that differ in one setting."""

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
from keras_cnns.report.run_report import depth_chart, write_report
from keras_cnns.training.trainer import train

_SMALL = (
    "data.image_size=16",
    "data.resize_shorter=16",
    "training.epochs=8",
    "optimizer.learning_rate=0.05",
)
_LARGE = ("training.epochs=4", "optimizer.learning_rate=0.01")


@dataclass(frozen=True)
class Experiment:
    """Trainings on the digits whose recipes differ in one setting."""

    claim: str
    source: str
    common: tuple[str, ...]  # overrides of the recipe digits-resnet20
    variants: dict[str, tuple[str, ...]]  # name -> more overrides
    metrics: dict[str, str]  # metric of the diagnostics -> its name in the charts


EXPERIMENTS: dict[str, Experiment | None] = {
    "depth": Experiment(
        "A deep plain network is hard to train, a residual one is not",
        "He et al. 2015, Deep Residual Learning (arXiv:1512.03385), figures 1 and 6",
        _SMALL,
        {"plain56": ("model.name=plain56",), "resnet56": ("model.name=resnet56",)},
        {
            "gradient_norm": "gradient norm",
            "activation_spread": "standard deviation of activations",
        },
    ),
    "auxiliary": Experiment(
        "Auxiliary classifiers increase the gradient in the first layers",
        "Szegedy et al. 2014, Going Deeper with Convolutions (arXiv:1409.4842), section 5",
        (*_LARGE, "model.name=googlenet"),
        {"without": ("model.aux_heads=false",), "with": ("model.aux_heads=true",)},
        {"gradient_norm": "gradient norm"},
    ),
    "batch-norm": Experiment(
        "Batch normalisation keeps the distribution of each layer's activations stable",
        "Ioffe and Szegedy 2015, Batch Normalization (arXiv:1502.03167), figure 1",
        _LARGE,
        {"without": ("model.name=googlenet",), "with": ("model.name=googlenet_bn",)},
        {
            "activation_mean": "mean of activations",
            "activation_spread": "standard deviation of activations",
        },
    ),
    "saddle": None,  # not a network but a function of two variables
}


def run_experiment(name: str, folder: Path, log: Callable[[str], None] = print) -> Path:
    """Train the variants of an experiment, and return the path of its page.

    Args:
        name: a key of `EXPERIMENTS`.
        folder: the folder of the page, and of a run directory for each variant. Variants that are
            finished already are not trained again.
        log: called with a line before each variant is trained.

    Raises:
        OSError: the folder cannot be written.
        RunError: a variant's directory contains something else.
    """
    path = folder / f"{name}.html"
    experiment = EXPERIMENTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    if experiment is None:
        write_saddle_page(path)
        return path
    runs: dict[str, Records] = {}
    for variant, overrides in experiment.variants.items():
        log(f"{name}: {variant}")
        recipe = load_recipe("digits-resnet20", (*experiment.common, *overrides))
        run = train(recipe, folder / name / variant)
        if run.predictions:  # else it was finished before
            write_report(run.path, run.predictions)
        runs[variant] = read_records(run.path)
    by_depth = [
        depth_chart(
            records,
            f"{variant}: {words}",
            metric,
            words,
            log=True,
            limits=_common_limits(list(runs.values()), metric),
        )
        for metric, words in experiment.metrics.items()
        for variant, records in runs.items()
    ]
    section = page.Section(
        "By depth",
        "Each line shows one training step; charts of the same metric have the same y axis.",
        [page.Charts(by_depth)],
    )
    write_text(path, render(runs, experiment.claim, experiment.source, [section]))
    return path


def _common_limits(runs: list[Records], metric: str) -> tuple[float, float] | None:
    """Return a range, above 0, that contains a metric of every run with some margin."""
    values = np.concatenate([records.by_layer(metric).ravel() for records in runs])
    values = values[values > 0]
    return (values.min() / 1.3, values.max() * 1.3) if values.size else None
