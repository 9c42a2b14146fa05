"""Experiment 4: the naive module, dimension reduction, the branches, and the auxiliary heads."""

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_cnns.keras_internals import clear_session
from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.experiments.gradient_flow import gradient_norms
from keras_cnns.lab.networks import fit, lab_recipe, part
from keras_cnns.models.cost import cost
from keras_cnns.models.googlenet import inception_module
from keras_cnns.report import charts
from keras_cnns.report.page import Chart
from keras_cnns.training.preparation import Preparation, prepare

_EPOCHS = 20
_WIDTH = 0.25  # factor of the paper's numbers of filters
# With this width, the naive network needs about as many multiply-adds as the network with
# reduction.
_NAIVE_WIDTH = 0.088
_LAST = 5  # number of last epochs over which the error is averaged
# Prefixes of the names of the layers in the early stages.
_EARLY = ("conv1", "conv2", "inception_3")
_THRESHOLDS = tuple(round(float(each), 3) for each in np.linspace(0.1, 1.0, 37))
_TIMED_IMAGES, _TIMED_CALLS = 64, 5
_COMMON = (
    "model.name=googlenet_bn",
    "data.train_split=train[:40%]",
    "optimizer.learning_rate=0.05",
)


def _without(branch: str) -> str:
    kept = [f'"{each}"' for each in ("1x1", "3x3", "5x5", "pool") if each != branch]
    return f"model.inception_branches=[{', '.join(kept)}]"


_NETWORKS: dict[str, tuple[str, ...]] = {
    "reduction": (f"model.width={_WIDTH}",),
    "naive, equal width": (f"model.width={_WIDTH}", "model.inception=naive"),
    "naive, equal cost": (f"model.width={_NAIVE_WIDTH}", "model.inception=naive"),
    **{
        f"without {branch}": (f"model.width={_WIDTH}", _without(branch))
        for branch in ("1x1", "3x3", "5x5", "pool")
    },
}


def early_exit(
    heads: Sequence[np.ndarray], labels: np.ndarray, multiply_adds: Sequence[int], threshold: float
) -> tuple[float, float]:
    """Return accuracy and mean multiply-adds if each image leaves at the first confident head.

    Args:
        heads: the probabilities of each head [N, K], the cheapest first; the last head classifies
            the remaining images.
        labels: the classes, [N].
        multiply_adds: the multiply-adds up to and including each head, in the same order.
        threshold: an image leaves at the first head whose highest probability is at least this.
    """
    exits = np.full(len(labels), len(heads) - 1)
    for index in reversed(range(len(heads) - 1)):
        exits[heads[index].max(axis=1) >= threshold] = index
    predicted = np.stack([each.argmax(axis=1) for each in heads])[exits, np.arange(len(labels))]
    return float((predicted == labels).mean()), float(np.asarray(multiply_adds)[exits].mean())


def _calibrated_threshold(
    heads: Sequence[np.ndarray], labels: np.ndarray, multiply_adds: Sequence[int]
) -> float:
    """Return the lowest threshold with which the accuracy is not below that of the last head."""
    full = float((heads[-1].argmax(axis=1) == labels).mean())
    for threshold in _THRESHOLDS:
        if early_exit(heads, labels, multiply_adds, threshold)[0] >= full:
            return threshold
    return _THRESHOLDS[-1]


def _milliseconds(model: keras.Model) -> float:
    """Return the smallest time per image over several calls with a batch."""
    images = np.zeros((_TIMED_IMAGES, *model.input.shape[1:]), "float32")
    model.predict_on_batch(images)  # the first call compiles, and is not measured
    durations = []
    for _ in range(_TIMED_CALLS):
        start = time.perf_counter()
        model.predict_on_batch(images)
        durations.append(time.perf_counter() - start)
    return 1000 * min(durations) / _TIMED_IMAGES


def _head_costs(model: keras.Model) -> dict[str, int]:
    """Return the multiply-adds of the layers that each output needs."""
    return {
        name: cost(keras.Model(model.input, output)).multiply_adds
        for name, output in model.output.items()
    }


class _EarlyGradient(keras.callbacks.Callback):
    """Measure the gradient of the main loss in the early stages at the beginning of each epoch.

    Only the main loss is differentiated, even if the network has auxiliary heads. The gradient of
    the sum of the losses could not be compared with the gradient of a single loss.
    """

    def __init__(self, prepared: Preparation) -> None:
        super().__init__()
        outputs = prepared.model.output
        main = outputs["main"] if isinstance(outputs, dict) else outputs
        images, labels = prepared.probe()
        self.images = images
        self.labels = labels["main"] if isinstance(labels, dict) else labels
        self.main = keras.Model(prepared.model.input, main)  # shares the trained model's weights
        self.main.compile(loss="sparse_categorical_crossentropy")
        self.norms: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        norms = gradient_norms(self.main, self.images, self.labels)
        early = [norm for layer, norm in norms.items() if layer.startswith(_EARLY)]
        self.norms.append(float(np.sqrt(np.sum(np.square(early)))))


def _exits(prepared: Preparation) -> dict[str, Any]:
    """Measure each head of a trained network alone, and the early exit."""
    model = prepared.model
    costs = _head_costs(model)
    order = sorted(costs, key=lambda name: costs[name])
    measured = []
    for split in prepared.open_held_out():
        pairs = [(images, labels) for images, labels, *_ in split.epoch(0)]
        labels = np.concatenate([np.asarray(each) for _, each in pairs])
        outputs = [model(images, training=False) for images, _ in pairs]
        heads = [np.concatenate([np.asarray(each[name]) for each in outputs]) for name in order]
        measured.append((heads, labels))
    (heads, labels), (test_heads, test_labels) = measured
    multiply_adds = [costs[name] for name in order]
    threshold = _calibrated_threshold(heads, labels, multiply_adds)
    return {
        "heads": {
            name: {
                "accuracy": float((each.argmax(axis=1) == test_labels).mean()),
                "multiply_adds": costs[name],
            }
            for name, each in zip(order, test_heads, strict=True)
        },
        "curve": [early_exit(test_heads, test_labels, multiply_adds, each) for each in _THRESHOLDS],
        "threshold": threshold,
        "calibrated": early_exit(test_heads, test_labels, multiply_adds, threshold),
    }


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    epochs = settings.scaled(_EPOCHS, 4)
    count = len(_NETWORKS) + 1
    networks: dict[str, Any] = {}
    for index, (name, overrides) in enumerate(_NETWORKS.items()):
        clear_session()
        recipe = lab_recipe(settings, seed, *_COMMON, f"training.epochs={epochs}", *overrides)
        prepared = prepare(recipe)
        gradient = _EarlyGradient(prepared)
        callbacks = [gradient] if name == "reduction" else []
        curves = fit(recipe, part(report, index, count, name), callbacks, prepared=prepared)
        counted = cost(prepared.model)
        networks[name] = {
            **curves,
            "parameters": counted.parameters,
            "multiply_adds": counted.multiply_adds,
            "milliseconds": _milliseconds(prepared.model),
            "early_gradient": gradient.norms,
        }
    clear_session()
    recipe = lab_recipe(
        settings,
        seed,
        *_COMMON,
        f"training.epochs={epochs}",
        f"model.width={_WIDTH}",
        "model.aux_heads=true",
    )
    prepared = prepare(recipe)
    gradient = _EarlyGradient(prepared)
    curves = fit(
        recipe, part(report, count - 1, count, "auxiliary heads"), [gradient], prepared=prepared
    )
    auxiliary = {**curves, **_exits(prepared), "early_gradient": gradient.norms}
    return {"networks": networks, "auxiliary": auxiliary}


def _gradient_ratio(measured: Measurements) -> float:
    """Return the mean gradient norm with auxiliary heads divided by the norm without them."""
    without = np.mean(measured["networks"]["reduction"]["early_gradient"])
    return float(np.mean(measured["auxiliary"]["early_gradient"]) / without)


def _error(curves: dict[str, Any]) -> float:
    """Return the mean validation error of the last epochs, in per cent."""
    return 100 * float(np.mean(curves["val_error"][-_LAST:]))


def _charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    networks = measurements[0]["networks"]

    def curves(names: Sequence[str]) -> dict[str, list[list[float]]]:
        return {
            name: [each["networks"][name]["val_error"] for each in measurements] for name in names
        }

    modules = [name for name in networks if not name.startswith("without")]
    ablated = ["reduction", *(name for name in networks if name.startswith("without"))]
    with_heads = [each["auxiliary"]["val_error"] for each in measurements]
    return [
        charts.mean_lines(
            "Validation error: naive modules and dimension reduction",
            {**curves(modules), "reduction, with auxiliary heads": with_heads},
            x="epoch",
            y="error",
            percent=True,
        ),
        charts.mean_lines(
            "Validation error without one branch",
            curves(ablated),
            x="epoch",
            y="error",
            percent=True,
        ),
        charts.lines(
            "Early exit: accuracy against multiply-adds, one point for each threshold",
            {
                f"seed {seed}": (
                    [multiply_adds for _, multiply_adds in each["auxiliary"]["curve"]],
                    [accuracy for accuracy, _ in each["auxiliary"]["curve"]],
                )
                for seed, each in enumerate(measurements)
            },
            x="mean multiply-adds per image",
            y="accuracy on the test split",
            percent=True,
        ),
        charts.mean_lines(
            "Gradient of the main loss in the early stages",
            {
                "without auxiliary heads": [
                    each["networks"]["reduction"]["early_gradient"] for each in measurements
                ],
                "with auxiliary heads": [
                    each["auxiliary"]["early_gradient"] for each in measurements
                ],
            },
            x="epoch",
            y="norm of the kernels' gradient",
            log=True,
        ),
    ]


def _table(measured: Measurements) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {
        name: {
            "parameters": each["parameters"],
            "multiply-adds": each["multiply_adds"],
            "time per image, ms": each["milliseconds"],
            f"validation error, last {_LAST} epochs, %": _error(each),
        }
        for name, each in measured["networks"].items()
    }
    for name, head in measured["auxiliary"]["heads"].items():
        rows[f"head {name} alone"] = {
            "multiply-adds": head["multiply_adds"],
            "test accuracy, %": 100 * head["accuracy"],
        }
    accuracy, multiply_adds = measured["auxiliary"]["calibrated"]
    rows["early exit with the calibrated threshold"] = {
        "multiply-adds": multiply_adds,
        "test accuracy, %": 100 * accuracy,
    }
    return rows


def _findings(measurements: Sequence[Measurements]) -> list[str]:
    first = measurements[0]["networks"]
    errors = {
        name: float(np.mean([_error(each["networks"][name]) for each in measurements]))
        for name in first
    }
    reduced, naive = first["reduction"], first["naive, equal width"]
    worst = max(
        (name for name in errors if name.startswith("without")), key=lambda name: errors[name]
    )
    ratio = float(np.mean([_gradient_ratio(each) for each in measurements]))
    exits = [each["auxiliary"] for each in measurements]
    cheaper = np.mean(
        [each["calibrated"][1] / each["heads"]["main"]["multiply_adds"] for each in exits]
    )
    lost = np.mean([each["heads"]["main"]["accuracy"] - each["calibrated"][0] for each in exits])
    return [
        f"At equal width, the naive network has {naive['parameters'] / reduced['parameters']:.1f} "
        f"times the parameters and {naive['multiply_adds'] / reduced['multiply_adds']:.1f} times "
        "the multiply-adds of the network with reduction. The validation error is "
        f"{errors['naive, equal width']:.2f} % for the naive network of equal width, "
        f"{errors['naive, equal cost']:.2f} % for the naive network of equal cost, and "
        f"{errors['reduction']:.2f} % for the network with reduction.",
        f"Of the four branches, the {worst.removeprefix('without ')} branch matters most: without "
        f"it, the validation error is {errors[worst]:.2f} %.",
        "Averaged over the epochs, the gradient of the main loss in the early stages is "
        f"{ratio:.2f} times as large in a network that is trained with auxiliary heads as in a "
        "network without them. Before the training, this gradient is the same in both, because the "
        "heads do not change the initial weights of the other layers.",
        "Early exit uses the lowest confidence threshold with which its accuracy on the "
        "validation split is not below the accuracy of the most expensive head. With this "
        f"threshold, early exit needs {100 * cheaper:.0f} % of the multiply-adds of the main head, "
        f"and its accuracy on the test split is {100 * lost:.2f} percentage points lower than the "
        "accuracy of the main head.",
    ]


EXPERIMENT = Experiment(
    number=4,
    name="inception",
    claim="Dimension reduction makes inception modules cheaper without raising the error. At equal "
    "cost, modules with dimension reduction have a lower error than naive modules, which have no "
    "dimension reduction. Auxiliary heads increase the gradient of the early stages.",
    source="Szegedy et al. 2014, Going Deeper with Convolutions, figure 2, sections 4 and 5; "
    "Teerapittayanon et al. 2016, BranchyNet (early exit)",
    varied="The module (naive, or with dimension reduction), the width of the naive network (the "
    "same width as the network with reduction, or a width that gives the same number of "
    "multiply-adds), the branches (all four, or three of them), and the auxiliary heads (with, "
    "without).",
    fixed=f"GoogLeNet with batch norm and {_WIDTH:.0%} of the paper's filters (fewer in the naive "
    "network of equal cost), two fifths of the training images, the learning rate schedule (cosine "
    "decay from 0.05) and the number of epochs.",
    measured=f"The validation error, averaged over the last {_LAST} epochs; parameters, "
    "multiply-adds and computing time; the gradient norm of the main loss in the stages before "
    "module 4a, in each epoch; the accuracy and the multiply-adds of each head alone; the accuracy "
    "and the multiply-adds of early exit. With early exit, an image leaves the network at the "
    "first head that is confident.",
    look_at="In the figure of the early exit, find the number of multiply-adds above which the "
    "accuracy does not increase any more. In the table, compare the times of the naive networks "
    "with their multiply-adds.",
    larger_run="In our measurement with five seeds on digits, the naive networks had a lower error "
    "than the network with reduction, by 2.6 percentage points at equal width and by 2.9 at equal "
    "cost. More seeds would probably not change this, but other images might: run the experiment "
    "with --data fashion-mnist. The paper's networks have no batch norm and four times as many "
    "filters. They were trained on 1.28 million images, which are 2,500 times as many as here. To "
    "train such networks, use the recipe imagenet-googlenet-quick, with and without --set "
    "model.inception=naive.",
    effects=(
        Effect(
            "multiply-adds of naive modules divided by multiply-adds of modules with reduction, at "
            "equal width",
            " times",
            1.6,  # 1 + 0.6; module 3a alone has a factor of 1 + 1.4
            lambda measured: (
                measured["networks"]["naive, equal width"]["multiply_adds"]
                / measured["networks"]["reduction"]["multiply_adds"]
            ),
        ),
        Effect(
            "validation error of the naive network minus validation error with reduction, at "
            "equal width",
            " percentage points",
            -1.0,
            lambda measured: (
                _error(measured["networks"]["naive, equal width"])
                - _error(measured["networks"]["reduction"])
            ),
        ),
        Effect(
            "validation error of the naive network minus validation error with reduction, at "
            "equal cost",
            " percentage points",
            0.5,
            lambda measured: (
                _error(measured["networks"]["naive, equal cost"])
                - _error(measured["networks"]["reduction"])
            ),
        ),
        Effect(
            "factor by which auxiliary heads multiply the gradient norm of the main loss in the "
            "early stages, averaged over the epochs",
            " times",
            1.1,
            _gradient_ratio,
        ),
    ),
    formula="multiply-adds of a kxk convolution on an H x W map: H W k^2 C_in C_out\n"
    "if a 1x1 convolution first reduces the map to R channels: H W (C_in R + k^2 R C_out)\n"
    "loss = loss(main) + 0.3 loss(aux1) + 0.3 loss(aux2)",
    implementation=(inception_module, early_exit),
    questions=(
        "For which numbers R of channels is a reduction before a 5x5 convolution cheaper than no "
        "reduction? Insert the numbers of module 3a.",
        "In a naive module, the pooling branch keeps all channels. How many input channels does "
        "the ninth module have?",
        "The losses of the auxiliary heads are added to the main loss. Does a larger gradient in "
        "the early stages then show that the training is better? Which comparison would show it?",
        "Why is the threshold of the early exit chosen on the validation split, and not on the "
        "test split?",
    ),
    run=_run,
    charts=_charts,
    table=_table,
    findings=_findings,
    seconds=165,
    fixed_seconds=129,
)
