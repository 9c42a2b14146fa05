"""`keras-cnns train --dry-run`."""

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe
from keras_cnns.recipes.documentation import format_documented_recipe


def print_dry_run(recipe: Recipe) -> None:
    """Print a recipe with all of its keys, and the estimated cost of its training."""
    print(format_documented_recipe(recipe), flush=True)
    with quiet_stderr():
        from keras_cnns.training.dry_run import describe, estimate
    print(describe(recipe, estimate(recipe)))
