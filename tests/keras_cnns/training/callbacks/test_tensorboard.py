from pathlib import Path

import tensorflow as tf
from two_layers import make_data, make_model

from keras_cnns.training.callbacks import LearningRate, TensorBoard, UpdateRatio


def read(directory: Path) -> dict[str, list[int]]:
    """Return the steps of each scalar."""
    return {tag: list(values) for tag, values in read_values(directory).items()}


def read_values(directory: Path) -> dict[str, dict[int, float]]:
    """Return the values of each scalar by step."""
    values: dict[str, dict[int, float]] = {}
    for file in sorted(directory.iterdir()):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                values.setdefault(value.tag, {})[event.step] = value.simple_value
    return values


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


def test_models_with_and_without_auxiliary_outputs_share_charts(tmp_path: Path) -> None:
    logs = {"aux1_loss": 3.0, "loss": 2.5, "main_accuracy": 0.5, "main_loss": 1.5}
    board = TensorBoard(tmp_path)
    board.on_epoch_end(0, logs | {f"val_{name}": value for name, value in logs.items()})
    board.on_train_end()
    expected = {"aux1_loss": 3.0, "loss_sum": 2.5, "accuracy": 0.5, "loss": 1.5}
    for run in ("train", "validation"):
        assert read_values(tmp_path / run) == {
            f"epoch/{name}": {0: value} for name, value in expected.items()
        }
