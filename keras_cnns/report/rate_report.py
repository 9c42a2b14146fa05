"""The range test's page: the loss over the rate."""

from pathlib import Path

from keras_cnns.report import charts, page
from keras_cnns.training.callbacks.range_test import RangeTest
from keras_cnns.training.files import write_text


def write_rate_report(test: RangeTest, title: str, path: Path) -> None:
    """Write a self-contained page with the plot and the proposal.

    Raises:
        ValueError: the loss never fell, so that there is no proposal.
        OSError: the page cannot be written.
    """
    proposal = test.propose()
    plot = charts.lines(
        "Loss while the rate rises",
        {"a batch": (test.rates, test.losses), "smoothed": (test.rates, test.smoothed())},
        x="learning rate",
        y="loss",
        log=True,
        log_x=True,
        mark=(proposal, f"proposed: {proposal:g}"),
    )
    words = (
        f"{len(test.rates)} training steps, the rate a little higher in each. The proposed rate is "
        "a tenth of the one at which the smoothed loss is lowest: high enough to learn fast, with "
        "room before the loss rises. It is the highest rate for a schedule that comes down from it."
    )
    write_text(path, page.render(title, words, page.charts([plot]), []))
