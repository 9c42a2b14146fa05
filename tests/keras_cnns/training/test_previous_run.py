"""A run directory that version 0.1 wrote is read, resumed and reported.

`previous_run` was made by commit 6a02e9e of 2026, without the report and TensorBoard's files and
with the checkpoint of step 4 of 6, from this recipe and the model of `tiny_model.py`. Do not make
it again: it stands for the run directories of users.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_model

from keras_cnns.recipes import load_recipe
from keras_cnns.report import write_report
from keras_cnns.report.records import read_records
from keras_cnns.training import evaluate, open_run, train
from keras_cnns.training.callbacks import Diagnostic

PREVIOUS_RUN = Path(__file__).parent / "previous_run"
CHANGES = (
    "model.name=tiny",
    "data.train_split=train[:96]",
    "data.validation_split=validation[:32]",
    "data.test_split=test[:32]",
    "training.epochs=2",
    # In the directory's config.toml these keys have the names of version 0.1.
    "optimizer.ema_momentum=0.9",
    "optimizer.reference_batch_size=64",
    "optimizer.bias_learning_rate_multiplier=2",
)


@pytest.fixture
def previous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_model.register(monkeypatch)
    return Path(shutil.copytree(PREVIOUS_RUN, tmp_path / "run"))


def test_it_is_opened_evaluated_and_reported(previous: Path) -> None:
    run = open_run(previous)
    assert run.recipe == load_recipe("digits-resnet20", CHANGES)
    assert run.labels == tuple("0123456789")
    assert [row["val_loss"] for row in run.history()] == [2.3880629539489746, 2.3867697715759277]
    assert evaluate(run) == pytest.approx(run.results()["test"], rel=1e-5)
    records = read_records(previous)
    assert records.layers("gradient_norm") == ["stem_conv", "logits"]
    assert list(records.times["epoch"]) == [1, 2]
    # In the files, the metric has its name of version 0.1.
    assert records.layers("activation_std") == ["stem_relu"]
    assert records.history["activation_std"][0] == pytest.approx(0.602564, rel=1e-5)
    page = write_report(previous).read_text("utf-8")
    assert "Gradient norm by depth" in page
    assert "Standard deviation of the activations" in page


def test_it_is_resumed_and_ends_as_it_did(
    previous: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = open_run(previous)
    history, weights = finished.history(), finished.load_model().get_weights()
    for name in ("results.json", "model.keras"):
        (previous / name).unlink()
    resumed = train(finished.recipe, previous)
    assert f"{previous}: resuming at step 4, in epoch 2" in capsys.readouterr().err
    for one, other in zip(resumed.history(), history, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for one, other in zip(resumed.load_model().get_weights(), weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    header = (previous / "history.csv").read_text("utf-8").partition("\n")[0]
    assert "activation_spread" not in header
    assert header.count("activation_std") == 2  # of the model and of its layer


def test_it_is_resumed_and_its_diagnostics_stay_in_their_columns(
    previous: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Diagnostic.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "interval", 3)
    (previous / "results.json").unlink()
    before = (previous / "diagnostics.csv").read_bytes()
    resumed = train(open_run(PREVIOUS_RUN).recipe, previous)
    after = (previous / "diagnostics.csv").read_bytes()
    assert after.startswith(before)
    records = read_records(previous)
    assert list(records.diagnostics["step"]) == [0, 5]
    values = records.diagnostics["activation_std"]
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values, records.diagnostics["activation_std/stem_relu"])
    last = resumed.history()[-1]
    assert last["activation_std"] == pytest.approx(values[-1], rel=1e-4)
    assert not [name for name in last if name.startswith("activation_spread")]
