"""Compare the best settings with the recipe over several seeds, on the test split."""

import math
from dataclasses import dataclass

from keras_cnns.lab.experiment import Effect
from keras_cnns.lab.verdict import CONFIDENCE, Decision, Verdict, decide_effect, seeds_to_decide

# Percentage points. If two numbers differ by at most this value, they count as equal.
_SAME = 1e-9


@dataclass(frozen=True)
class Comparison:
    """The test accuracies of the recipe and of a trial's settings, seed by seed."""

    number: int  # number of the trial
    seeds: tuple[int, ...] = ()  # at least two seeds; none if a training has diverged
    recipe: tuple[float, ...] = ()  # accuracies from 0 to 1
    best: tuple[float, ...] = ()
    # The trial and the seed of the training that has diverged, which ends the comparison.
    diverged: tuple[int, int] | None = None

    @property
    def differences(self) -> tuple[float, ...]:
        """Return, for each seed, the trial's accuracy minus the recipe's, in percentage points."""
        return tuple(100 * (b - r) for b, r in zip(self.best, self.recipe, strict=True))

    @property
    def has_interval(self) -> bool:
        """Return whether the differences vary between the seeds.

        If all differences are equal, their standard deviation is 0, and the t interval has no
        width. This does not mean that the difference is known exactly: the effect of chance cannot
        be estimated from equal numbers.
        """
        return max(self.differences) - min(self.differences) > _SAME

    @property
    def verdict(self) -> Verdict:
        """Return whether the trial's settings are better than those of the recipe."""
        if self.diverged:
            is_trial = self.diverged[0] == self.number
            return Verdict.NOT_SUPPORTED if is_trial else Verdict.INCONCLUSIVE
        return self.decide().verdict if self.has_interval else Verdict.INCONCLUSIVE

    def decide(self) -> Decision:
        """Return the paired one-sided t interval of the difference, in percentage points."""
        effect = Effect(
            name=f"test accuracy of trial {self.number} minus that of the recipe",
            unit=" points",
            min_effect=0.0,
            value=lambda measurements: float(measurements["difference"]),
        )
        return decide_effect(effect, self.differences)

    def describe(self) -> str:
        """Return the result in whole sentences."""
        if self.diverged:
            return self._describe_divergence()
        if not self.has_interval:
            return self._describe_equal()
        decision = self.decide()
        mean, low, high = decision.mean, decision.low, decision.high
        seeds = f"over {len(self.seeds)} seeds"
        bounds = f"each bound holds with {CONFIDENCE:.0%} confidence"
        if self.verdict is Verdict.SUPPORTED:
            return (
                f"Trial {self.number} is at least {_round_down(low)} points better than the "
                f"recipe: its test accuracy is {mean:.2f} points higher {seeds} (between {low:.2f} "
                f"and {high:.2f}; {bounds})."
            )
        if self.verdict is Verdict.NOT_SUPPORTED:
            return (
                f"Nothing was better than the recipe: trial {self.number} is best on the "
                f"validation images, but its test accuracy is {-mean:.2f} points lower {seeds} "
                f"(between {-high:.2f} and {-low:.2f}; {bounds})."
            )
        needed = seeds_to_decide(decision)
        remedy = (
            f"About {needed} seeds would decide it, if the mean and the standard deviation stay "
            "the same."
            if needed
            else "More seeds would hardly decide it."
        )
        return (
            f"{self._inconclusive}. The trial's test accuracy minus that of the recipe is "
            f"{mean:+.2f} points {seeds} (between {low:+.2f} and {high:+.2f}; {bounds}). {remedy}"
        )

    @property
    def _inconclusive(self) -> str:
        """Return the beginning of a sentence about a comparison without a decision."""
        return (
            "Nothing was shown to be better than the recipe: the comparison with trial "
            f"{self.number} is inconclusive"
        )

    def _describe_divergence(self) -> str:
        """Return the result in whole sentences if a training has diverged."""
        assert self.diverged is not None
        number, seed = self.diverged
        if number == self.number:
            return (
                f"Nothing was better than the recipe: trial {number} is best on the validation "
                f"images, but its training diverges with the seed {seed}."
            )
        return (
            f"{self._inconclusive}, because the recipe's own training diverges with the seed "
            f"{seed}."
        )

    def _describe_equal(self) -> str:
        """Return the result in whole sentences if the difference is the same with every seed."""
        difference = self.differences[0]
        result = (
            "the two have the same test accuracy"
            if abs(difference) <= _SAME
            else f"the trial's test accuracy minus that of the recipe is {difference:+.2f} points"
        )
        return (
            f"{self._inconclusive}, because {result} with every one of {len(self.seeds)} "
            f"seeds. Equal differences have no standard deviation, "
            "so there is no interval; more seeds or more test images would be needed."
        )


def comparison_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the seeds of a comparison; the seed of the search's trials is not one of them."""
    return tuple((seed + each) % 2**31 for each in range(1, count + 1))


def _round_down(points: float) -> str:
    """Return a positive number rounded down to two decimals, or to more if two would give 0."""
    for decimals in range(2, 9):
        scaled = math.floor(points * 10**decimals)
        if scaled:
            return f"{scaled / 10**decimals:.{decimals}f}"
    return "0"
