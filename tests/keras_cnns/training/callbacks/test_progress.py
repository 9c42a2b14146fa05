import io
import re

import pytest
from two_layers import fit, make_model

from keras_cnns.durations import format_seconds
from keras_cnns.training.callbacks import Progress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_an_epoch_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    fit(make_model(metrics=["accuracy"]), Progress(out), steps=3, epochs=2)
    first, second = out.getvalue().splitlines()
    assert re.fullmatch(
        r"epoch 1/2, \d+\.\d s left: accuracy \d+\.\d\d%, loss [\d.]+, \d+\.\d s", first
    )
    assert re.fullmatch(r"epoch 2/2: accuracy \d+\.\d\d%, loss [\d.]+, \d+\.\d s", second)


def test_the_time_left_includes_the_trainings_that_follow() -> None:
    out = io.StringIO()
    progress_of_fold = Progress(out, prefix="fold 1/5, ", trainings_after=4)
    fit(make_model(), progress_of_fold, steps=3, epochs=1)
    assert re.match(r"fold 1/5, epoch 1/1, \d+\.\d s left: loss", out.getvalue())


def test_a_long_epoch_has_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_PAUSE", 0.0)
    out = io.StringIO()
    fit(make_model(), Progress(out), steps=2)
    assert re.match(r"epoch 1/1, step 1/2, \d+\.\d s left: loss [\d.]+\n", out.getvalue())


def drawings(out: Terminal) -> list[str]:
    """Return the lines that a terminal showed, without colours."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    return [line for line in re.split(r"[\r\n]+", text) if line]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(progress, "REFRESH", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


@pytest.mark.parametrize(
    ("columns", "details"),
    [
        (100, ", accuracy 33.68%, loss 2.171, loss sum 3.421, step 2/4"),
        (80, ", accuracy 33.68%, loss 2.171"),
        (40, ""),
    ],
)
def test_a_bar_on_a_terminal_shows_what_fits(
    columns: int, details: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    callback = Progress(terminal)
    callback.set_params({"steps": 4, "epochs": 10})
    logs = {"main_accuracy": 0.3368, "main_loss": 2.171, "loss": 3.4213, "aux1_loss": 4.0}
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    for batch in range(2):
        callback.on_train_batch_begin(batch)
        callback.on_train_batch_end(batch, logs)
    bar = drawings(terminal)[-1]
    assert re.fullmatch(rf"epoch  1/10 [━╸╺]{{10,24}}   5% \d\.\d s left{details}", bar)
    assert len(bar) <= columns
    callback.on_train_end()


def test_the_bar_is_below_the_lines_of_the_epochs_and_removed(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    fit(make_model(), Progress(terminal), steps=2, epochs=2)
    shown = drawings(terminal)
    bars = [line for line in shown if "━" in line]
    percentages = list(dict.fromkeys(re.findall(r"\d+(?=%)", " ".join(bars))))
    assert percentages == ["25", "50", "75", "100"]
    lines = [line for line in shown if "━" not in line]
    assert re.match(r"epoch 1/2, \d\.\d s left: loss [\d.]+, \d\.\d s", lines[0])
    assert re.match(r"epoch 2/2: loss [\d.]+, \d\.\d s", lines[1])
    assert len(lines) == 2
    assert terminal.getvalue().endswith("\x1b[1A\x1b[2K")  # the bar's line is erased
    assert terminal.getvalue().count("\x1b[?25l") <= terminal.getvalue().count("\x1b[?25h")


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
    assert format_seconds(seconds) == text
