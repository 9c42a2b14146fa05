from pathlib import Path

import tensorflow as tf
from two_layers import make_data, make_model

from keras_cnns.training.callbacks import LearningRate, TensorBoard, UpdateRatio


def read(directory: Path) -> dict[str, list[int]]:
    """Return the steps of each scalar."""
    steps: dict[str, list[int]] = {}
    for file in sorted(directory.iterdir()):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    return steps


def test_scalars_by_step(tmp_path: Path) -> None:
    diagnostics = [LearningRate(interval=2), UpdateRatio(interval=2)]
    board = TensorBoard(tmp_path, diagnostics)
    x, y = make_data(16)
    make_model().fit(
        x,
        y,
        validation_data=(x, y),
        batch_size=4,
        epochs=2,
        verbose=0,
        callbacks=[*diagnostics, board],
    )
    each_measurement = [0, 2, 4, 6]
    assert read(tmp_path / "train") == {
        "learning_rate": each_measurement,
        "update_ratio": each_measurement,
        "update_ratio/hidden": each_measurement,
        "update_ratio/head": each_measurement,
        "epoch/loss": [4, 8],
    }
    assert read(tmp_path / "validation") == {"epoch/loss": [4, 8]}
