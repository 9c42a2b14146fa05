"""`keras-cnns train --find-lr`: the learning rate's range test."""

from pathlib import Path

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe


def print_range_test(recipe: Recipe, run: Path | None) -> None:
    """Run the test, write its page beside the run directory, and print the proposed learning rate.

    Args:
        recipe: the model, data and optimizer to test.
        run: a run directory, which need not exist; None: the page goes to `find-lr.html`.
    """
    with quiet_stderr():
        from keras_cnns.files import replacing
        from keras_cnns.report.rate_report import write_rate_report
        from keras_cnns.training.lr_finder import find_rate
    path = Path("find-lr.html") if run is None else run.with_name(f"{run.name}-find-lr.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory; the test's page would go there")
    with replacing(path) as partial:
        partial.touch()  # fail before the training steps if the page cannot be written
        test = find_rate(recipe)
        title = f"Learning-rate range test of {recipe.model.name} on {recipe.data.name}"
        write_rate_report(test, title, partial)
    print(f"proposed: --set optimizer.learning_rate={test.propose():g}")
    print(
        f"{path}: the loss against the learning rate, from {test.rates[0]:g} to {test.rates[-1]:g}"
    )
