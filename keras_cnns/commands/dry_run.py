"""`keras-cnns train --dry-run`."""

from keras_cnns.quiet import quiet_stderr
from keras_cnns.recipes import Recipe
from keras_cnns.recipes.documentation import format_documented_recipe


def print_dry_run(recipe: Recipe) -> None:
    """Print a recipe, its estimated cost, and the callbacks of other packages."""
    print(format_documented_recipe(recipe), flush=True)
    with quiet_stderr():
        from keras_cnns.training import installed_callbacks
        from keras_cnns.training.dry_run import describe, estimate
    print(describe(recipe, estimate(recipe)))
    for entry_point in installed_callbacks.find_installed():
        print(f"callback  {installed_callbacks.describe(entry_point)}")
