"""Compare the best settings with the recipe over several seeds, on the test split."""

import math
from dataclasses import dataclass

from keras_cnns.lab.experiment import Effect
from keras_cnns.lab.verdict import CONFIDENCE, Decision, Verdict, decide_effect


@dataclass(frozen=True)
class Comparison:
    """The test accuracies of the recipe and of a trial's settings, seed by seed."""

    number: int  # of the trial
    seeds: tuple[int, ...]
    recipe: tuple[float, ...]  # accuracies from 0 to 1
    best: tuple[float, ...]

    def decide(self) -> Decision:
        """Return the paired one-sided t interval of the difference, in percentage points."""
        effect = Effect(
            name=f"test accuracy of trial {self.number} minus that of the recipe",
            unit=" points",
            min_effect=0.0,
            value=lambda measurements: float(measurements["difference"]),
        )
        differences = [100 * (b - r) for b, r in zip(self.best, self.recipe, strict=True)]
        return decide_effect(effect, differences)

    @property
    def is_better(self) -> bool:
        """Return whether the settings are better than the recipe."""
        return self.decide().verdict is Verdict.SUPPORTED

    def describe(self) -> str:
        """Return the result in whole sentences."""
        decision = self.decide()
        seeds = f"over {len(self.seeds)} seeds"
        bounds = f"each bound holds with {CONFIDENCE:.0%} confidence"
        if not self.is_better:
            interval = (
                f"between {decision.low:+.2f} and {decision.high:+.2f}; {bounds}"
                if math.isfinite(decision.low)
                else "one seed has no interval"
            )
            return (
                f"Nothing was better than the recipe: the test accuracy of trial {self.number} "
                f"minus that of the recipe is {decision.mean:+.2f} points {seeds} ({interval})."
            )
        at_least = math.floor(100 * decision.low) / 100  # never rounded up
        return (
            f"Trial {self.number} is at least {at_least:.2f} points better than the recipe: its "
            f"test accuracy is {decision.mean:.2f} points higher {seeds} (between "
            f"{decision.low:.2f} and {decision.high:.2f}; {bounds})."
        )


def comparison_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the seeds of a comparison: not that of the search, which has selected the settings."""
    return tuple((seed + each) % 2**31 for each in range(1, count + 1))
