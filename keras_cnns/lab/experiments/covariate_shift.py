"""Experiment 8: the drift of activations in training, and whether it explains batch norm."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_cnns.keras_internals import clear_session
from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.networks import fit, lab_recipe, part
from keras_cnns.models.layers import batch_norm
from keras_cnns.models.variations import NoisyBatchNormalization
from keras_cnns.report import charts
from keras_cnns.report.page import Chart
from keras_cnns.training.preparation import Preparation, prepare

_EPOCHS = 20
# Each network is trained with each of these learning rates; the best one counts.
_LEARNING_RATES = (0.001, 0.005, 0.02)
# Standard deviation of the normal distribution from which the mean of the noise is drawn. The
# standard deviation of the noise is the absolute value of a second number from this distribution.
_NOISE = 0.5
_NETWORKS = {
    "without batch norm": ("model.batch_normalization=false",),
    "with batch norm": (),
    "with batch norm and noise": (f"model.batch_norm_noise={_NOISE}",),
}
_WITHOUT, _WITH, _NOISY = _NETWORKS
_LAYERS = ("stage1_block3_relu", "stage2_block3_relu", "stage3_block3_relu")
_QUANTILES = (0.15, 0.50, 0.85)  # the quantiles of figure 1 of Ioffe and Szegedy 2015
_COMMON = (
    "model.name=resnet20",
    "data.train_split=train[:40%]",
)


class _Quantiles(keras.callbacks.Callback):
    """Measure the inputs of some activations on one batch, at the beginning of each epoch.

    Attributes:
        values: quantiles of each channel's inputs, float [epochs, layers, quantiles, channels];
            a layer that has fewer channels than the last layer is filled with NaN.
    """

    def __init__(self, prepared: Preparation) -> None:
        super().__init__()
        self.images = prepared.probe()[0]
        model = prepared.model
        self.inputs = keras.Model(model.input, [model.get_layer(each).input for each in _LAYERS])
        self.values: list[np.ndarray] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # A forward pass changes the moving averages and the states of the seed generators. The
        # scope discards these changes.
        with keras.StatelessScope():
            maps = [np.asarray(each) for each in self.inputs(self.images, training=True)]
        measured = np.full((len(maps), len(_QUANTILES), maps[-1].shape[-1]), np.nan)
        for layer, values in enumerate(maps):
            measured[layer, :, : values.shape[-1]] = np.quantile(values, _QUANTILES, axis=(0, 1, 2))
        self.values.append(measured)


def drift(quantiles: np.ndarray) -> float:
    """Return how far the distribution of a channel moves from one epoch to the next.

    The drift is the mean absolute change of a channel's median, divided by the distance between
    the outer quantiles of the channel.

    Args:
        quantiles: float [epochs, layers, 3, channels].
    """
    low, middle, high = np.moveaxis(quantiles, 2, 0)
    width = np.maximum(high - low, 1e-12)[:-1]
    return float(np.nanmean(np.abs(np.diff(middle, axis=0)) / width))


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    networks: dict[str, Any] = {}
    for index, name in enumerate(_NETWORKS):
        report_network = part(report, index, len(_NETWORKS), name)
        trainings = []
        for number, learning_rate in enumerate(_LEARNING_RATES):
            text = f"learning rate {learning_rate:g}"
            report_training = part(report_network, number, len(_LEARNING_RATES), text)
            trainings.append(_train(seed, settings, name, learning_rate, report_training))
        best = min(trainings, key=_mean_loss)
        quantiles = best.pop("quantiles")
        networks[name] = {
            **best,
            "drift": drift(quantiles),
            # Only the first channel is kept, as [layers][quantiles][epochs]. The figure in the
            # paper also shows a single channel.
            "quantiles": np.moveaxis(quantiles[..., 0], 0, -1).tolist(),
        }
    return {"networks": networks}


def _train(
    seed: int, settings: Settings, name: str, learning_rate: float, report: Report
) -> Measurements:
    """Train a network with one learning rate; return its curves, and quantiles as `_Quantiles`."""
    clear_session()
    recipe = lab_recipe(
        settings,
        seed,
        *_COMMON,
        f"training.epochs={settings.scaled(_EPOCHS, 5)}",
        f"optimizer.learning_rate={learning_rate}",
        *_NETWORKS[name],
    )
    prepared = prepare(recipe)
    quantiles = _Quantiles(prepared)
    curves = fit(recipe, report, [quantiles], prepared=prepared)
    return {**curves, "learning_rate": learning_rate, "quantiles": np.stack(quantiles.values)}


def _mean_loss(training: Measurements) -> float:
    """Return the training loss averaged over all epochs, which is low if the training is fast."""
    losses = training["loss"]
    return float(np.mean([min(loss, 10) if math.isfinite(loss) else 10 for loss in losses]))


def _loss(measured: Measurements, name: str) -> float:
    """Return the mean training loss of a network with its best learning rate."""
    return _mean_loss(measured["networks"][name])


def _drift_decades(measured: Measurements, name: str, other: str) -> float:
    """Return log10(drift in one network / drift in another network)."""
    networks = measured["networks"]
    return math.log10(networks[name]["drift"] / networks[other]["drift"])


def _charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    losses = {name: [each["networks"][name]["loss"] for each in measurements] for name in _NETWORKS}
    return [
        charts.mean_lines("Training loss", losses, x="epoch", y="loss in nats", log=True),
        charts.dots(
            "Drift of the activations from epoch to epoch",
            {
                name: [each["networks"][name]["drift"] for each in measurements]
                for name in _NETWORKS
            },
            y="drift",
            log=True,
        ),
        *(
            charts.mean_lines(
                f"Quantiles of a channel's inputs to the last activation, {name}",
                {
                    f"{quantile:.0%} quantile": [
                        each["networks"][name]["quantiles"][-1][index] for each in measurements[:1]
                    ]
                    for index, quantile in enumerate(_QUANTILES)
                },
                x="epoch",
                y="input of the activation, seed 0",
            )
            for name in _NETWORKS
        ),
    ]


def _table(measured: Measurements) -> dict[str, dict[str, float]]:
    return {
        name: {
            "drift": each["drift"],
            "training loss, mean over all epochs, nats": _loss(measured, name),
            "training loss of the last epoch, nats": each["loss"][-1],
            "validation error of the last epoch, %": 100 * each["val_error"][-1],
        }
        for name, each in measured["networks"].items()
    }


def _findings(measurements: Sequence[Measurements]) -> list[str]:
    drifts = {
        name: float(np.mean([each["networks"][name]["drift"] for each in measurements]))
        for name in _NETWORKS
    }
    losses = {
        name: float(np.mean([_loss(each, name) for each in measurements])) for name in _NETWORKS
    }
    most = max(drifts, key=lambda name: drifts[name])
    fastest = min(losses, key=lambda name: losses[name])
    sentences = [
        f"The distributions drift most {most}. The drift is {drifts[_WITHOUT]:.3g} without batch "
        f"norm, {drifts[_WITH]:.3g} with batch norm, and {drifts[_NOISY]:.3g} with batch norm and "
        "noise. A drift of 1 means that from one epoch to the next, the median moves by the "
        "distance between the outer quantiles.",
        "If each network has its best learning rate of the three, the training is fastest "
        f"{fastest}: the mean loss is {losses[fastest]:.3g} nats. It is {losses[_WITHOUT]:.3g} "
        f"nats without batch norm, and {losses[_NOISY]:.3g} nats with batch norm and noise.",
        "This page does not show why batch norm helps. If the network with noise drifts more than "
        "the network without batch norm and still trains faster, then stable distributions are not "
        "the reason for the advantage of batch norm. Santurkar et al. propose another reason, a "
        "smoother loss, which is not measured here.",
    ]
    for name in _NETWORKS:
        counts = Counter(each["networks"][name]["learning_rate"] for each in measurements)
        listed = " and ".join(f"{each:g} ({count})" for each, count in sorted(counts.items()))
        sentences.append(
            f"{name.capitalize()}, the best learning rate was {listed}; the number of seeds is in "
            "parentheses."
        )
    last = np.mean([each["networks"][_WITHOUT]["loss"][-1] for each in measurements])
    if not last < 0.9 * math.log(10):
        sentences.append(
            "The network without batch norm has learned almost nothing in this time: its loss is "
            f"{last:.3g} nats, and random guessing has a loss of 2.3 nats. Its drift is therefore "
            "the drift of a network that does not learn. The comparison needs more epochs or other "
            "learning rates."
        )
    return sentences


EXPERIMENT = Experiment(
    number=8,
    name="covariate-shift",
    claim="Batch norm makes the distributions of activations more stable and the training faster, "
    "but the stability is not the reason for the faster training. With noise after batch norm, the "
    "distributions are less stable than without batch norm, but the training is still faster than "
    "without batch norm.",
    source="Ioffe and Szegedy 2015, Batch Normalization, figure 1; Santurkar et al. 2018, How Does "
    "Batch Normalization Help Optimization?, figure 2",
    varied="Batch norm. Three networks are compared: one without batch norm, one with batch norm, "
    "and one in which noise follows each batch norm. In every step, the mean and the standard "
    "deviation of the noise are drawn anew for each channel: the mean from a normal distribution "
    f"with mean 0 and standard deviation {_NOISE}, and the standard deviation as the absolute "
    "value of another number from this distribution.",
    fixed="ResNet-20, the distribution of its initial weights, two fifths of the training images, "
    "the number of epochs, the cosine decay of the learning rate, and the initial learning rates "
    f"({', '.join(map(str, _LEARNING_RATES))}). Each network is trained with each of these "
    "learning rates, and only the training with the lowest mean loss is used.",
    measured="The training loss, and the drift of the distributions. In every epoch, the 15, 50 "
    "and 85 % quantiles of each channel are measured on one batch, at the input of the last "
    "activation of each stage. The drift is the change of a channel's median from one epoch to the "
    "next, divided by the distance between its 15 and 85 % quantiles.",
    look_at="In the figures of the quantiles, compare the movement of the middle line, which is "
    "the median, with the distance between the outer lines. Then compare the order of the three "
    "networks by drift with their order by loss.",
    larger_run="A deeper network without batch norm is harder to train. The differences between "
    "the losses therefore grow with the depth. To train a deeper network, change the name of the "
    "model in the experiment's file. The option --data fashion-mnist trains on more images. "
    "Santurkar et al. trained VGG networks on CIFAR-10. Weaker noise (the constant _NOISE in the "
    "experiment's file) slows the training less, but also moves the distributions less. Other "
    "learning rates than these three may suit a network better.",
    effects=(
        Effect(
            "drift without batch norm divided by drift with batch norm",
            " orders of magnitude",
            0.2,
            lambda measured: _drift_decades(measured, _WITHOUT, _WITH),
        ),
        Effect(
            "mean training loss without batch norm minus mean training loss with batch norm",
            " nats",
            0.1,
            lambda measured: _loss(measured, _WITHOUT) - _loss(measured, _WITH),
        ),
        Effect(
            "drift with batch norm and noise divided by drift without batch norm",
            " orders of magnitude",
            0.1,
            lambda measured: _drift_decades(measured, _NOISY, _WITHOUT),
        ),
        Effect(
            "mean training loss without batch norm minus mean training loss with batch norm and "
            "noise",
            " nats",
            0.1,
            lambda measured: _loss(measured, _WITHOUT) - _loss(measured, _NOISY),
        ),
    ),
    formula="y = gamma (x - mean) / sqrt(variance + epsilon) + beta   (per channel of a batch)\n"
    "noise: y + n, n ~ N(m, s^2), with new m ~ N(0, noise^2) and s ~ |N(0, noise^2)| for each "
    "channel in every step\n"
    "drift = mean of |median(t+1) - median(t)| / (quantile 85 %(t) - quantile 15 %(t))",
    implementation=(batch_norm, NoisyBatchNormalization, drift),
    questions=(
        "Batch norm fixes the mean and the variance of each channel in every batch. Which "
        "parameters can still change the distribution of an activation's inputs?",
        "One network has stable distributions and trains fast, another one has unstable "
        "distributions and trains slowly. Why does this not show that stability is the cause of "
        "fast training? What does the network with noise add to the argument?",
        "Which measurement would support the explanation that batch norm makes the loss smoother?",
    ),
    run=_run,
    charts=_charts,
    table=_table,
    findings=_findings,
    seconds=175,
    fixed_seconds=87,
)
