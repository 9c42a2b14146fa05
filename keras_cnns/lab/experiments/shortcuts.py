"""Experiment 3: kinds of shortcuts, and a check of the equations of the skip connection."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cnns.keras_internals import clear_session
from keras_cnns.lab.experiment import Effect, Experiment, Measurements, Report, Settings
from keras_cnns.lab.networks import fit, lab_recipe, part
from keras_cnns.models.resnet import basic_block
from keras_cnns.models.shortcuts import OPTIONS, SHORTCUTS
from keras_cnns.report import charts
from keras_cnns.report.page import Chart
from keras_cnns.training.preparation import prepare

_EPOCHS = 20
_NETWORK = "resnet32"
_LAST = 5  # number of last epochs over which the error is averaged
_TOLERANCE = 1e-3  # maximum rounding error of sums in float32, relative to the largest number
_COMMON = (
    f"model.name={_NETWORK}",
    "data.train_split=train[:40%]",
)


def skip_equations(model: keras.Model, images: Any, labels: Any, block: str) -> dict[str, float]:
    """Return how far the two sides of each equation of the skip connection differ in a block.

    The input of the block is a^(l-2). The output of its convolutions is Z, and the output of its
    shortcut is s. The gradient of the loss with respect to Z + s is delta^l:

    ```
    forward      a^l = f(Z + s)                         s = W a^(l-2), or a^(l-2)
    delta        delta^l = f'(Z + s) dL/da^l
    skip weight  dL/dW = sum of a^(l-2) outer dL/d(W a^(l-2))
    input        dL/da^(l-2) = dZ/da^(l-2) delta^l + ds/da^(l-2) delta^l
    ```

    Args:
        model: a compiled residual network whose blocks are `basic_block`.
        images: a batch [N, H, W, C].
        labels: its targets.
        block: the name of a block with stride 1, such as "stage1_block2".

    Returns:
        Equation -> largest deviation of its sides, relative to the largest number of the left side.
        If the shortcut has no weight, the dict does not contain "skip weight".
    """
    layer = model.get_layer
    source, total = layer(f"{block}_conv1").input, layer(f"{block}_relu").input
    convolutions = layer(f"{block}_bn2").output
    names = {each.name for each in model.layers}
    projection = f"{block}_shortcut_conv" if f"{block}_shortcut_conv" in names else None
    skip = layer(f"{block}_shortcut_bn").output if projection else source
    inner = {"in": source, "z": convolutions, "skip": skip, "sum": total}
    if projection:
        inner["projected"] = layer(projection).output
    # Two models, so that the gradient with respect to the output of the block can be computed.
    end = layer(f"{block}_relu").output
    body = keras.Model(model.input, {**inner, "out": end})
    head = keras.Model(end, model.output)
    with tf.GradientTape(persistent=True) as tape:
        a = body(images, training=True)
        loss = model.compute_loss(y=labels, y_pred=head(a["out"], training=True))
    deviations = {"forward": _deviation(a["out"], tf.nn.relu(a["z"] + a["skip"]))}
    delta = tape.gradient(loss, a["sum"])
    at_output = tape.gradient(loss, a["out"])
    is_active = tf.cast(a["sum"] > 0, delta.dtype)
    deviations["delta"] = _deviation(delta, is_active * at_output)
    normal = tape.gradient(a["z"], a["in"], output_gradients=delta)
    if projection:
        weight = layer(projection).kernel.value
        through_skip = tape.gradient(a["skip"], a["in"], output_gradients=delta)
        outer = tf.einsum("nhwc,nhwk->ck", a["in"], tape.gradient(loss, a["projected"]))
        deviations["skip weight"] = _deviation(tape.gradient(loss, weight)[0, 0], outer)
    else:
        through_skip = delta  # the gradient of an identity shortcut is delta itself
    deviations["input"] = _deviation(tape.gradient(loss, a["in"]), normal + through_skip)
    return deviations


def _deviation(left: Any, right: Any) -> float:
    left, right = np.asarray(left, float), np.asarray(right, float)
    return float(np.abs(left - right).max() / np.abs(left).max())


def skip_parameters(model: keras.Model) -> int:
    """Return the number of trainable parameters in the shortcuts of a network."""
    layers = [each for each in model.layers if "_shortcut" in each.name or "_gate" in each.name]
    return int(sum(np.prod(w.shape) for layer in layers for w in layer.trainable_weights))


def _run(seed: int, settings: Settings, report: Report) -> Measurements:
    epochs = settings.scaled(_EPOCHS, 4)
    kinds: dict[str, Any] = {}
    for index, kind in enumerate(SHORTCUTS):
        clear_session()
        recipe = lab_recipe(
            settings, seed, *_COMMON, f"model.shortcut={kind}", f"training.epochs={epochs}"
        )
        prepared = prepare(recipe)
        curves = fit(recipe, part(report, index, len(SHORTCUTS), _label(kind)), prepared=prepared)
        equations = (
            skip_equations(prepared.model, *prepared.probe(), "stage1_block2")
            if kind in OPTIONS.values()
            else {}
        )
        parameters = skip_parameters(prepared.model)
        kinds[kind] = {**curves, "equations": equations, "parameters": parameters}
    return {"kinds": kinds}


def _error(measured: Measurements, kind: str) -> float:
    """Return the mean validation error of the last epochs, in per cent."""
    return 100 * float(np.mean(measured["kinds"][kind]["val_error"][-_LAST:]))


def _worse(kind: str, points: float, paper: str) -> Effect:
    return Effect(
        f"validation error with {_label(kind)} minus validation error with the identity ({paper} "
        "in the paper)",
        " percentage points",
        points,
        lambda measured: _error(measured, kind) - _error(measured, "identity"),
    )


def _label(kind: str) -> str:
    letters = {key: letter for letter, key in OPTIONS.items()}
    name = {"none": "no shortcut"}.get(kind, kind.replace("_", " "))
    return f"{name} (option {letters[kind]})" if kind in letters else name


def _largest_deviation(measured: Measurements) -> float:
    kinds = measured["kinds"].values()
    return float(max(max(each["equations"].values(), default=0.0) for each in kinds))


def _charts(measurements: Sequence[Measurements]) -> list[Chart | None]:
    kinds = measurements[0]["kinds"]

    def curves(key: str) -> dict[str, list[list[float]]]:
        return {_label(kind): [each["kinds"][kind][key] for each in measurements] for kind in kinds}

    return [
        charts.mean_lines(
            "Validation error by kind of shortcut",
            curves("val_error"),
            x="epoch",
            y="error",
            percent=True,
        ),
        charts.mean_lines(
            "Training loss by kind of shortcut",
            curves("loss"),
            x="epoch",
            y="loss in nats",
            log=True,
        ),
        charts.dots(
            f"Validation error, mean of the last {_LAST} epochs",
            {_label(kind): [_error(each, kind) / 100 for each in measurements] for kind in kinds},
            y="error",
            percent=True,
        ),
    ]


def _table(measured: Measurements) -> dict[str, dict[str, float]]:
    return {
        _label(kind): {
            f"validation error, last {_LAST} epochs, %": _error(measured, kind),
            "training loss of the last epoch, nats": each["loss"][-1],
            "trainable parameters in the shortcuts": each["parameters"],
            **(
                {"largest deviation from the equations": max(each["equations"].values())}
                if each["equations"]
                else {}
            ),
        }
        for kind, each in measured["kinds"].items()
    }


def _findings(measurements: Sequence[Measurements]) -> list[str]:
    kinds = list(measurements[0]["kinds"])
    errors = {kind: float(np.mean([_error(each, kind) for each in measurements])) for kind in kinds}
    best, worst = (choose(errors, key=lambda kind: errors[kind]) for choose in (min, max))
    differences = [
        _error(each, "constant_scaling") - _error(each, "identity") for each in measurements
    ]
    deviation = max(_largest_deviation(each) for each in measurements)
    sentences = [
        f'The validation error is lowest with the shortcut "{_label(best)}" '
        f'({errors[best]:.2f} %) and highest with the shortcut "{_label(worst)}" '
        f"({errors[worst]:.2f} %). It is {errors['identity']:.2f} % with the identity.",
        "The two sides of the forward and backward equations below differ by at most "
        f"{deviation:.1e}, relative to the largest number of the left side. This is the rounding "
        "error of float32.",
        "The identity shortcuts have "
        f"{measurements[0]['kinds']['identity']['parameters']} trainable parameters. There is "
        "therefore nothing to update. Projections in every block have "
        f"{measurements[0]['kinds']['projection_everywhere']['parameters']:,} parameters.",
    ]
    if len(measurements) > 1 and (deviation := float(np.std(differences, ddof=1))) > 0:
        # Find n for which the smallest effect equals 1.645 deviation / sqrt(n), which is the
        # distance between the mean and its one-sided 95 % bound.
        needed = int(np.ceil((1.645 * deviation / _SCALING) ** 2))
        sentences.append(
            "The difference between the errors with constant scaling and with the identity has a "
            f"standard deviation of {deviation:.2f} percentage points over the seeds. With this "
            f"standard deviation, about {max(needed, 2)} seeds are needed to reduce the distance "
            "between the mean and each bound of the interval to the smallest effect that counts."
        )
    return sentences


# The smallest effects are a quarter of those in the paper, where ResNet-110 with identity shortcuts
# has an error of 6.61 % on CIFAR-10.
_SCALING = (12.35 - 6.61) / 4
EXPERIMENT = Experiment(
    number=3,
    name="shortcuts",
    claim="The identity is the best shortcut: scaling, gating, dropout and projections in every "
    "block raise the error, and the identity has no parameters to update.",
    source="He et al. 2016, Identity Mappings in Deep Residual Networks, table 1; He et al. 2015, "
    "Deep Residual Learning, section 3.3 (options A, B and C)",
    varied=f"The shortcut of the blocks of {_NETWORK}: {', '.join(map(_label, SHORTCUTS))}.",
    fixed="The convolutions of all blocks, two fifths of the training images, the learning rate "
    "schedule (cosine decay from 0.1) and the number of epochs.",
    measured=f"The validation error, averaged over the last {_LAST} epochs; the largest difference "
    "between the two sides of the forward and backward equations in one block; the number of "
    "trainable parameters of all shortcuts.",
    look_at="In the figures, compare how early the curves fall. In the table, look at the "
    "trainable parameters: only shortcuts with parameters have weights to update on the skip "
    "path.",
    larger_run="The paper measured its differences with 110 layers on CIFAR-10, where the skip "
    "path consists of 54 shortcuts in series. Here, the skip path consists of 15 shortcuts, and "
    "the images are small digits. To repeat the paper's table, train the recipe cifar10-resnet110 "
    "with --set model.shortcut=constant_scaling, and then with each of the other shortcuts. These "
    "are eight trainings of about a day each on two cores.",
    effects=(
        _worse("constant_scaling", _SCALING, "12.35 and 6.61 %"),
        _worse("exclusive_gating", (8.70 - 6.61) / 4, "8.70 and 6.61 %"),
        _worse("projection_everywhere", (12.22 - 6.61) / 4, "12.22 and 6.61 %"),
        _worse("dropout", (20 - 6.61) / 4, "above 20 and 6.61 %"),
        Effect(
            f"{_TOLERANCE:g} minus the largest difference between the two sides of the forward and "
            "backward equations",
            "",
            0,
            lambda measured: _TOLERANCE - _largest_deviation(measured),
        ),
        Effect(
            "1 minus the number of trainable parameters in the identity shortcuts",
            "",
            0,
            lambda measured: 1 - float(measured["kinds"]["identity"]["parameters"]),
        ),
    ),
    formula="forward:   a^l = f(Z^l + W a^(l-2));  with the identity  a^l = f(Z^l + a^(l-2))\n"
    "backward:  gradient of W = a^(l-2) delta^l (a step of gradient descent subtracts it);\n"
    "           gradient of a^(l-2) = (normal path) delta^l + W^T delta^l\n"
    "through L blocks: each skip path multiplies the gradient by W^T, the identity by 1",
    implementation=(basic_block, SHORTCUTS["identity"], SHORTCUTS["projection_everywhere"]),
    questions=(
        "Constant scaling multiplies the skip path by 0.5 in each block. By which factor does it "
        "multiply the gradient after 15 blocks, and after 54 blocks?",
        "If the weights on the skip path are fixed, which of the two backward equations is not "
        "needed?",
        "Option A fills new channels with zeros. What do the residual functions have to learn with "
        "option A that they need not learn with option B?",
        "Dropout on the shortcut is a random scaling. What is the expectation of the scaled value, "
        "and how does its variance change?",
    ),
    run=_run,
    charts=_charts,
    table=_table,
    findings=_findings,
    seconds=157,
    fixed_seconds=86,
)
