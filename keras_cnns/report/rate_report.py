"""The page of the learning-rate finder: the loss against the learning rate."""

from pathlib import Path

from keras_cnns.files import write_text
from keras_cnns.report import charts, page
from keras_cnns.report.records import LOSSES
from keras_cnns.training.callbacks.lr_finder import LRFinder


def write_rate_report(finder: LRFinder, title: str, path: Path) -> None:
    """Write a self-contained page with the plot and the proposal.

    Raises:
        ValueError: the loss never fell, so there is no learning rate to propose.
        OSError: the page cannot be written.
    """
    proposal = finder.propose()
    has_aux_outputs = isinstance(finder.model.output, dict)
    plot = charts.lines(
        LOSSES if has_aux_outputs else "Loss",
        {
            "one batch": (finder.learning_rates, finder.losses),
            "smoothed": (finder.learning_rates, finder.smoothed()),
        },
        x="learning rate",
        y="loss",
        log=True,
        log_x=True,
        mark=(proposal, f"proposed: {proposal:g}"),
    )
    words = (
        f"The learning rate rises with each of {len(finder.losses)} training steps. The proposed "
        "one is a tenth of that at which the smoothed loss is lowest: high enough to learn fast, "
        "and well below the learning rates at which training diverges. Use it as the highest "
        "learning rate of a schedule."
    )
    write_text(path, page.render(title, words, page.charts([plot]), []))
