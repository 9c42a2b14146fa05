"""What looks at a training: its progress, its figures, and what happens inside the net."""

from pathlib import Path
from typing import Any

import keras

from keras_cnns.runs.run import DIAGNOSTICS, HISTORY, TENSORBOARD, TIMES
from keras_cnns.training.callbacks import (
    ActivationStatistics,
    DeadReLU,
    DiagnosticsLog,
    GradientNorm,
    LearningRate,
    Probe,
    Progress,
    SaveHistory,
    StepTime,
    TensorBoard,
    UpdateRatio,
)

CLASSIFIER = "logits"  # every net's last layer; that of an auxiliary head has another name
RATE_INTERVAL = 10  # steps; to read a number costs nothing
PROBE_SAMPLES = 32  # at most; a pass costs as much as a step on so many


def make_watchers(run: Path, batch: tuple[Any, ...]) -> list[keras.callbacks.Callback]:
    """Return what watches the training and reports on it, in the order of its calls.

    Args:
        run: the run directory.
        batch: images and targets as `fit` gets them, of which the first are looked at.
    """
    images, targets = keras.tree.map_structure(
        lambda each: keras.ops.convert_to_numpy(each[:PROBE_SAMPLES]), batch[:2]
    )
    probe = Probe(images, targets)
    diagnostics = [
        LearningRate(interval=RATE_INTERVAL),
        GradientNorm(probe, last=CLASSIFIER, layers_in_logs=True),
        UpdateRatio(layers_in_logs=True),
        DeadReLU(probe, layers_in_logs=True),
        ActivationStatistics(probe, layers_in_logs=True),
    ]
    return [
        Progress(),
        *diagnostics,
        DiagnosticsLog(diagnostics, run / DIAGNOSTICS),
        TensorBoard(run / TENSORBOARD, diagnostics),
        SaveHistory(run / HISTORY),
        StepTime(run / TIMES),
    ]
