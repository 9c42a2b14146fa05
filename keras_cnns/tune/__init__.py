"""Search for better settings of a recipe, with Optuna: `keras-cnns tune`."""
