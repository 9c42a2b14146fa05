"""`keras-cnns train --find-lr`."""

from pathlib import Path

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe
from keras_cnns.runs.names import named


def run_lr_finder(recipe: Recipe, run: Path | None) -> None:
    """Run the learning-rate finder, write its page and print the proposed learning rate.

    Args:
        recipe: the model, data and optimizer to test.
        run: a run directory, which need not exist. The page is written beside this directory.
            If None, the page is `find-lr.html` in the working directory.
    """
    with quiet_stderr():
        from keras_cnns.files import replacing
        from keras_cnns.report.lr_finder import write_lr_finder_report
        from keras_cnns.training.lr_finder import find_learning_rate
    path = Path("find-lr.html")
    if run is not None:
        path = named(run).with_name(f"{named(run).name}-find-lr.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory, but the page would be written there")
    with replacing(path) as partial:
        partial.touch()  # fail before the training steps if the page cannot be written
        finder = find_learning_rate(recipe)
        title = f"Learning-rate finder: {recipe.model.name} on {recipe.data.name}"
        write_lr_finder_report(
            partial,
            title,
            finder.learning_rates,
            finder.losses,
            finder.smoothed(),
            finder.propose(),
            has_aux_outputs=isinstance(finder.model.output, dict),
        )
    print(f"proposed: --set optimizer.learning_rate={finder.propose():g}")
    print(
        f"{path}: the loss against the learning rate, "
        f"from {finder.learning_rates[0]:g} to {finder.learning_rates[-1]:g}"
    )
