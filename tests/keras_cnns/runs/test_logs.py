import pytest

from keras_cnns.runs.logs import by_main_output


@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        (
            {"accuracy": 1, "loss": 2, "val_loss": 3, "epoch": 4},
            {"accuracy": 1, "loss": 2, "val_loss": 3, "epoch": 4},
        ),
        (
            {"aux1_loss": 1, "loss": 2, "main_accuracy": 3, "main_loss": 4},
            {"aux1_loss": 1, "loss_sum": 2, "accuracy": 3, "loss": 4},
        ),
        (
            {"loss": 1, "main_loss": 2, "val_loss": 3, "val_main_loss": 4, "val_main_accuracy": 5},
            {"loss_sum": 1, "loss": 2, "val_loss_sum": 3, "val_loss": 4, "val_accuracy": 5},
        ),
    ],
)
def test_the_main_outputs_loss_is_named_loss(
    logs: dict[str, int], expected: dict[str, int]
) -> None:
    assert by_main_output(logs) == expected
