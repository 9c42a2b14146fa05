"""Plan a search from its time and the measured duration of one training."""

import math
import time
from dataclasses import dataclass, replace

from keras_cnns.durations import format_seconds

# If there is no time for this number of trials besides the recipe's own trial, there is no
# comparison.
_MIN_TRIALS = 3
_MARGIN = 1.05  # safety factor of the reserved time, since durations vary
_MIN_SECONDS = 1e-3  # minimum duration of a training; a coarse clock may show 0


@dataclass(frozen=True)
class Plan:
    """The division of a search's time."""

    total: float  # seconds of the whole search
    trial: float  # seconds of one training
    reserved: float  # seconds for the comparison over seeds; 0 if there is no time for it
    needed: float  # seconds that the comparison needs; 0 if no comparison is requested

    @property
    def search_ends(self) -> float:
        """Return after how many seconds of the search all of its trials must have ended."""
        return self.total - self.reserved

    def fitting(self, spent: float) -> int:
        """Return how many whole trainings fit into the time that is left before the comparison."""
        return max(0, int((self.search_ends - spent) / self.trial))

    def minutes_to_compare(self, spent: float) -> int:
        """Return the number of minutes that the search and its comparison need together."""
        return math.floor((self.needed + max(spent, self.min_search)) / 60) + 1

    @property
    def min_search(self) -> float:
        """Return the minimum time of the search in seconds, which the comparison may not use."""
        return (1 + _MIN_TRIALS) * self.trial

    def describe(self, spent: float) -> str:
        """Return the plan in whole sentences."""
        trials = self.fitting(spent)
        fitting = (
            f"{trials} more {'fits' if trials == 1 else 'fit'} into the search, or a few more if "
            "some are pruned"
            if trials
            else "no other fits into the search"
        )
        text = (
            f"One training takes about {format_seconds(self.trial)}, and {fitting}. "
            f"{format_seconds(max(0.0, self.total - spent))} of "
            f"{format_seconds(self.total)} are left"
        )
        if self.reserved:
            return f"{text}, {format_seconds(self.reserved)} of them for the comparison at the end."
        if self.needed:
            return (
                f"{text}. The comparison at the end would need {format_seconds(self.needed)}; it "
                "is skipped, because it would leave too little time for the search."
            )
        return f"{text}."


def make_plan(minutes: float, trial: float, seeds: int) -> Plan:
    """Divide the time of a search.

    Args:
        minutes: the total time.
        trial: seconds of one training.
        seeds: the number of seeds of the comparison, each with two trainings; with 0, there is no
            comparison.
    """
    total, trial = 60 * minutes, max(trial, _MIN_SECONDS)
    needed = _MARGIN * 2 * seeds * trial
    plan = Plan(total, trial, needed, needed)
    return plan if plan.search_ends >= plan.min_search else replace(plan, reserved=0.0)


class Clock:
    """The time that a search has spent, including earlier processes.

    Args:
        before: seconds that earlier processes have spent.
    """

    def __init__(self, before: float) -> None:
        self._before, self._start = before, time.monotonic()

    @property
    def spent(self) -> float:
        """Return the seconds spent."""
        return self._before + time.monotonic() - self._start
