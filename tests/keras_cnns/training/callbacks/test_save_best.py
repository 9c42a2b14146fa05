"""The best epoch's model, whole and on disk."""

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cnns.training.callbacks import SaveBest


def make_callback(path: Path) -> SaveBest:
    inputs = keras.Input((1,))
    callback = SaveBest(path, "val_accuracy")
    callback.set_model(keras.Model(inputs, keras.layers.Dense(1)(inputs)))
    return callback


def end_epoch(callback: SaveBest, epoch: int, accuracy: float) -> None:
    """End an epoch in which the model's only weight has become the number of the epoch."""
    callback.model.set_weights([np.full((1, 1), float(epoch)), np.zeros(1)])
    callback.on_epoch_end(epoch, {"val_accuracy": accuracy})


def saved_epoch(path: Path) -> int:
    return int(keras.saving.load_model(path).get_weights()[0][0, 0])


def test_the_best_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    callback = make_callback(path)
    kept = []
    for epoch, accuracy in enumerate([0.5, 0.4, 0.7, 0.7, 0.6]):
        end_epoch(callback, epoch, accuracy)
        kept.append(saved_epoch(path))
    assert kept == [0, 0, 2, 3, 3]
    assert callback.best_epoch == 4
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    with pytest.raises(ValueError, match="the logs have no 'val_accuracy', only loss"):
        callback.on_epoch_end(5, {"loss": 1.0})


def test_what_a_full_disk_refused_is_written_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, full = tmp_path / "model.keras", tmp_path / "model.partial.keras"
    callback = make_callback(path)
    end_epoch(callback, 0, 0.5)
    full.symlink_to("/dev/full")
    end_epoch(callback, 1, 0.9)
    message = capsys.readouterr().err
    assert "model.keras: No space left on device; the best model, of epoch 2, is kept" in message
    assert saved_epoch(path) == 0
    end_epoch(callback, 2, 0.6)  # and still no space
    advice = "model.keras: No space left on device; free space and give the same command again"
    with pytest.raises(OSError, match=advice):
        callback.on_train_end()
    full.unlink()
    end_epoch(callback, 3, 0.7)
    assert saved_epoch(path) == 1
    assert callback.model.get_weights()[0][0, 0] == 3
    callback.on_train_end()
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
