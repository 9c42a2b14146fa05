"""The description of an experiment: a claim, its measurement, and the smallest effect.

An experiment is one file of `keras_cnns/lab/experiments` with a constant `EXPERIMENT`. Everything
else is shared: running over seeds, caching, progress, the verdict, the figures' style and the page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_cnns.report.page import Animation, Chart

# The measurements of one seed, as JSON: dicts with string keys, lists, numbers and strings.
Measurements = dict[str, Any]
Report = Callable[[float, str], None]  # receives the finished fraction of a run, and what runs now


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Together with the seed, they determine the measurements."""

    data: str = "digits"
    """The images: "digits" (built in) or "fashion-mnist"."""
    effort: float = 1.0
    """The fraction of the full training length; below 1 if a run is shortened to save time."""

    def scaled(self, full: int, at_least: int = 1) -> int:
        """Return a number of epochs or steps: `full` times the effort, but not below `at_least`."""
        return max(at_least, round(full * self.effort))


@dataclass(frozen=True)
class Effect:
    """One measurable part of a claim. The claim is supported if all its parts are supported."""

    name: str
    """A noun phrase for the number: "error of plain-44 minus error of plain-8"."""
    unit: str
    """The unit, written after a number: " percentage points", " nats", " times"."""
    min_effect: float
    """The smallest effect that counts, in `unit`; it is fixed before the run. If the paper gives
    an effect, the smallest effect is at least a quarter of it. If the claim is that something is
    not worse, the smallest effect is negative: minus the largest deterioration that still counts
    as not worse."""
    value: Callable[[Measurements], float]
    """Return the effect in the measurements of one seed: a difference of paired measurements. In a
    deterministic experiment, NaN means that the best setting lies at the edge of the search."""


@dataclass(frozen=True)
class Experiment:
    """A claim, the runs that test it, and what the page says about them.

    All texts are whole sentences for a student who knows the field and not this project.
    """

    number: int
    """The position in the list of experiments, from 1."""
    name: str
    """The name on the command line and of the file, with dashes for underscores."""
    claim: str
    """The claim in one sentence."""
    source: str
    """The paper, with the number of the figure, table or section."""
    varied: str
    fixed: str
    measured: str
    look_at: str
    """A sentence that names the detail of the figures to look at."""
    larger_run: str
    """Sentences on what would change the verdict, and on how to make a longer or larger run."""
    effects: tuple[Effect, ...]
    formula: str
    """The formula as plain text, one or several lines."""
    implementation: tuple[Callable[..., Any] | type, ...]
    """The functions or classes that implement the formula; the page quotes their source."""
    questions: tuple[str, ...]
    """Questions for students."""
    run: Callable[[int, Settings, Report], Measurements]
    """Measure everything for one seed. The result is JSON, depends only on the seed and the
    settings, and is cached."""
    charts: Callable[[Sequence[Measurements]], Sequence[Chart | None]]
    """Draw the figures from the measurements of all seeds."""
    table: Callable[[Measurements], Mapping[str, Mapping[str, float]]]
    """Return the table of one seed, row -> column -> number; the page shows mean and standard
    deviation over the seeds."""
    seconds: float
    """The measured duration of `run` for one seed with full effort, on one core with digits."""
    fixed_seconds: float = 0.0
    """The part of `seconds` that does not depend on the effort, such as building the networks."""
    deterministic: bool = False
    """Whether the result is independent of the seed, so that there is one run and no interval."""
    findings: Callable[[Sequence[Measurements]], Sequence[str]] = lambda measurements: ()
    """Return sentences about the measurements of all seeds, computed from the numbers."""
    animations: Callable[[Sequence[Measurements]], Sequence[Animation]] = lambda measurements: ()
    """Draw moving figures from the measurements of all seeds."""
