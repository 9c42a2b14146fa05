"""`keras-cnns train --find-lr`: the learning-rate finder."""

from pathlib import Path

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe


def run_lr_finder(recipe: Recipe, run: Path | None) -> None:
    """Find a learning rate, print it, and write a page with the losses beside the run directory.

    Args:
        recipe: the model, its data and optimizer.
        run: a run directory, which need not exist; None: the page goes to `find-lr.html`.
    """
    with quiet_stderr():
        from keras_cnns.files import replacing
        from keras_cnns.report.rate_report import write_rate_report
        from keras_cnns.training.lr_finder import find_learning_rate
    path = Path("find-lr.html") if run is None else run.with_name(f"{run.name}-find-lr.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise typer.BadParameter(
            f"{path} is a directory; the page of the learning-rate finder would go there"
        )
    with replacing(path) as partial:
        partial.touch()  # fail before the training steps if the page cannot be written
        finder = find_learning_rate(recipe)
        title = f"Learning-rate finder: {recipe.model.name} on {recipe.data.name}"
        write_rate_report(finder, title, partial)
    print(f"proposed: --set optimizer.learning_rate={finder.propose():g}")
    print(
        f"{path}: the loss against the learning rate, "
        f"from {finder.learning_rates[0]:g} to {finder.learning_rates[-1]:g}"
    )
