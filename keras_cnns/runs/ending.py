"""Describe why a training ended and which epoch's model is kept."""

from typing import Any

from keras_cnns.recipes import Recipe

CALLBACK = "callback"
_EARLY, _STEPS, _EPOCHS = "early_stopping", "max_steps", "epochs"  # the other values of `ended_by`


def find_reason(
    recipe: Recipe, steps: int, steps_per_epoch: int, *, has_stopped_early: bool
) -> str:
    """Return why a training ended, for `results.json`.

    The reason is "early_stopping", "max_steps", "epochs" or, in all other cases, "callback".

    Args:
        recipe: the recipe of the training.
        steps: the number of steps that were taken.
        steps_per_epoch: the number of steps of each epoch.
        has_stopped_early: whether early stopping ended the training.
    """
    if has_stopped_early:
        return _EARLY
    if 0 < recipe.training.max_steps <= steps:
        return _STEPS
    return _EPOCHS if steps >= recipe.training.epochs * steps_per_epoch else CALLBACK


def describe_ending(recipe: Recipe, results: dict[str, Any]) -> str:
    """Return a sentence on why a training ended, and a sentence on the epoch whose model is kept.

    Args:
        recipe: the recipe of the training.
        results: the content of `results.json`; runs of earlier versions do not record the reason.
    """
    training, best = recipe.training, results["best_epoch"]
    kept = f"The model of epoch {best} is kept: no other epoch has a higher validation accuracy."
    if "ended_by" not in results:
        return kept
    last = results["last_epoch"]
    ended = {
        _EARLY: f"Early stopping ended the training after epoch {last} of at most "
        f"{training.epochs}: the validation accuracy had not risen for "
        f"{training.early_stopping_patience} epochs.",
        _STEPS: f"The training ended in epoch {last}, after training.max_steps = "
        f"{training.max_steps} steps.",
        CALLBACK: f"A callback ended the training after epoch {last} of at most {training.epochs}.",
        _EPOCHS: f"The training ended after all of its {last} epochs.",
    }
    return f"{ended[results['ended_by']]} {kept}"
