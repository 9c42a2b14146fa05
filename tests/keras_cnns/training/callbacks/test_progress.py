import io
import re

import pytest
from two_layers import fit, make_model

from keras_cnns.training.callbacks import Progress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_an_epoch_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    fit(make_model(metrics=["accuracy"]), Progress(out), steps=3, epochs=2)
    first, second = out.getvalue().splitlines()
    assert re.fullmatch(
        r"epoch 1/2: accuracy \d+\.\d\d%, loss [\d.]+, \d+\.\d s, \d+\.\d s left", first
    )
    assert re.fullmatch(r"epoch 2/2: accuracy \d+\.\d\d%, loss [\d.]+, \d+\.\d s", second)


def test_a_long_epoch_has_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_PAUSE", 0.0)
    out = io.StringIO()
    fit(make_model(), Progress(out), steps=2)
    assert re.match(r"epoch 1/1, step 1/2, loss [\d.]+, \d+\.\d s left\n", out.getvalue())


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REFRESH", 0.0)
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    fit(make_model(), Progress(out), steps=2, epochs=2)
    drawings = [line.removesuffix("\x1b[K") for line in re.split(r"[\r\n]+", out.getvalue())]
    bars = [line for line in drawings if "step" in line]
    assert [bar.split()[1] for bar in bars] == ["25%", "50%", "75%", "100%"]
    assert bars[2].startswith("━" * 18 + "╌" * 6)
    assert "epoch 2/2, step 1/2, loss" in bars[2]
    assert max(map(len, bars)) < 60
    assert any(line.startswith("\x1b[Kepoch 1/2: loss") for line in drawings)


def test_an_epoch_that_is_gone_on_with_counts_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PLAIN_PAUSE", 0.0)
    out = io.StringIO()
    callback = Progress(out)
    callback.set_model(make_model())
    callback.set_params({"steps": 10, "epochs": 1})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_train_batch_begin(0)
    callback.set_state({"steps_of_epoch": 7})
    callback.on_train_batch_end(0)
    assert out.getvalue().startswith("epoch 1/1, step 8/10")
    assert callback.get_state() == {"steps_of_epoch": 8}


@pytest.mark.parametrize(
    ("logs", "text"),
    [
        ({"accuracy": 0.5, "loss": 1.5, "val_loss": 2}, "accuracy 50.00%, loss 1.5, val_loss 2"),
        (
            {"aux1_loss": 3.0, "loss": 2.4, "main_accuracy": 0.5, "main_loss": 1.5}
            | {"val_aux1_loss": 3.0, "val_loss": 2.9, "val_main_loss": 2.0},
            "accuracy 50.00%, loss 1.5, val_loss 2, loss sum 2.4, val_loss sum 2.9",
        ),
        ({"loss": 1.0, "gradient_norm/conv1": 1e-3}, "loss 1"),
    ],
)
def test_the_loss_shown_is_the_main_outputs(logs: dict[str, float], text: str) -> None:
    assert progress.describe(logs) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_in_two_units(seconds: float, text: str) -> None:
    assert progress.format_seconds(seconds) == text
