"""Find a learning rate for a recipe."""

from typing import Any

from keras_cnns.recipes import Recipe
from keras_cnns.training.callbacks.lr_finder import LRFinder
from keras_cnns.training.callbacks.progress import Progress
from keras_cnns.training.preparation import prepare


class _FinderProgress(Progress):
    """Show the steps of the finder, with the learning rate and the loss instead of metrics."""

    def __init__(self, finder: LRFinder) -> None:
        super().__init__()
        self.finder = finder

    def title(self) -> str:
        return "learning-rate finder"

    def describe(self, logs: dict[str, Any]) -> str:
        if not self.finder.losses:  # the first loss was not finite
            return "no finite loss"
        learning_rate, loss = self.finder.learning_rates[-1], self.finder.losses[-1]
        return f"learning rate {learning_rate:.3g}, loss {loss:.4g}"


def find_learning_rate(recipe: Recipe, steps: int = 100) -> LRFinder:
    """Train a recipe's model for some steps with a rising learning rate, and return the finder.

    Args:
        recipe: the model, its data and optimizer; the learning rate and its schedule are not used.
        steps: the number of training steps.

    Raises:
        ValueError: there is no such model or data set, or its training split is missing or empty.
    """
    prepared = prepare(recipe)
    finder = LRFinder(steps=steps)
    progress = _FinderProgress(finder)
    try:
        prepared.model.fit(
            prepared.batches(),
            steps_per_epoch=steps,
            shuffle=False,  # the order of the split is random already
            verbose=0,
            callbacks=[finder, progress],
        )
    finally:
        progress.close()
    return finder
