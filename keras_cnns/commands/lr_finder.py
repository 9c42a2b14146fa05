"""`keras-cnns train --find-lr`."""

from pathlib import Path

import typer

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe


def run_lr_finder(recipe: Recipe, run: Path | None) -> None:
    """Run the learning rate finder, write its page and print the proposed learning rate.

    Args:
        recipe: the model, data and optimizer to test.
        run: a run directory, which need not exist and is not written to; the page is written
            next to it. If None, the page is `find-lr.html` in the working directory.
    """
    with quiet_stderr():
        from keras_cnns.report.lr_finder import write_lr_finder_report
        from keras_cnns.training.files import replacing
        from keras_cnns.training.find_rate import find_rate
    path = Path("find-lr.html") if run is None else run.with_name(f"{run.name}-find-lr.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory, but the page would be written there")
    with replacing(path) as partial:
        partial.touch()  # fail before the training steps if the page cannot be written
        test = find_rate(recipe)
        title = f"Learning-rate range test of {recipe.model.name} on {recipe.data.name}"
        write_lr_finder_report(
            partial,
            title,
            test.rates,
            test.losses,
            test.smoothed(),
            test.propose(),
            has_aux_outputs=isinstance(test.model.output, dict),
        )
    print(f"proposed: --set optimizer.learning_rate={test.propose():g}")
    print(
        f"{path}: the loss against the learning rate, from {test.rates[0]:g} to {test.rates[-1]:g}"
    )
