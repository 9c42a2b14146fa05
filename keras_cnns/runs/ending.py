"""Describe why a training ended, and which epoch's model is kept."""

from typing import Any

from keras_cnns.recipes import Recipe

_EARLY, _STEPS, _EPOCHS = "early_stopping", "max_steps", "epochs"  # the values of `ended_by`


def find_reason(recipe: Recipe, steps: int, *, has_stopped_early: bool) -> str:
    """Return why a training ended, for `results.json`: "early_stopping", "max_steps" or "epochs".

    Args:
        recipe: the training's.
        steps: the number of steps that were taken.
        has_stopped_early: whether early stopping ended it.
    """
    if has_stopped_early:
        return _EARLY
    return _STEPS if 0 < recipe.training.max_steps <= steps else _EPOCHS


def describe_ending(recipe: Recipe, results: dict[str, Any]) -> str:
    """Return a sentence each on the end of a training and on the epoch that is kept.

    Args:
        recipe: the training's.
        results: the content of `results.json`; those of earlier versions do not have the reason.
    """
    training, best = recipe.training, results["best_epoch"]
    kept = f"The model of epoch {best} is kept: no other has a higher validation accuracy."
    if "ended_by" not in results:
        return kept
    last = results["last_epoch"]
    ended = {
        _EARLY: f"Early stopping ended the training after epoch {last} of at most "
        f"{training.epochs}: the validation accuracy had not risen for "
        f"{training.early_stopping_patience} epochs.",
        _STEPS: f"The training ended in epoch {last}, after training.max_steps = "
        f"{training.max_steps} steps.",
        _EPOCHS: f"The training ended after all of its {last} epochs.",
    }
    return f"{ended[results['ended_by']]} {kept}"
