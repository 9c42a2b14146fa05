"""The page of the learning-rate finder: the loss against the learning rate."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cnns.files import write_text
from keras_cnns.report import charts, page
from keras_cnns.report.records import LOSS_SUM_TITLE


def write_lr_finder_report(
    path: Path,
    title: str,
    learning_rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float] | np.ndarray,
    proposal: float,
    *,
    has_aux_outputs: bool,
) -> None:
    """Write a self-contained page with the chart and the proposed learning rate.

    Args:
        path: the page's path.
        title: the page's title.
        learning_rates: the learning rate of each training step.
        losses: the loss of each step's batch.
        smoothed: the moving average of the losses.
        proposal: the proposed learning rate.
        has_aux_outputs: whether the losses are weighted sums over several outputs.

    Raises:
        OSError: the page cannot be written.
    """
    chart = charts.lines(
        LOSS_SUM_TITLE if has_aux_outputs else "Loss",
        {"one batch": (learning_rates, losses), "smoothed": (learning_rates, smoothed)},
        x="learning rate",
        y="loss",
        log=True,
        log_x=True,
        mark=(proposal, f"proposed: {proposal:g}"),
    )
    intro = (
        f"The learning rate rises with each of {len(learning_rates)} training steps. The proposed "
        "learning rate is a tenth of the one with the lowest smoothed loss: high enough to learn "
        "fast, and well below the learning rates at which training diverges. Use it as the "
        "highest learning rate of a schedule."
    )
    section = page.Section("Loss against learning rate", intro, [page.Charts([chart])])
    text = page.render(title, f"Proposed learning rate: {proposal:g}", [section])
    write_text(path, text, is_shared=True)
