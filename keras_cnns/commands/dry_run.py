"""`keras-cnns train --dry-run`."""

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe, format_recipe


def print_dry_run(recipe: Recipe) -> None:
    """Print a recipe with every value written out, and what training by it would take."""
    print(format_recipe(recipe), flush=True)
    with quiet_stderr():
        from keras_cnns.training.dry_run import describe, estimate
    print(describe(recipe, estimate(recipe)))
