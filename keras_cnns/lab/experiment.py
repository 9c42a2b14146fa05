"""The description of an experiment: a claim, its measurement, and its smallest effects.

An experiment is one file of `keras_cnns/lab/experiments` with a constant `EXPERIMENT`. Everything
else is shared: the loop over the seeds, the cache, the progress, the verdict, the style of the
figures and the page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_cnns.report.page import Animation, Chart

# The measurements of one seed, as JSON: dicts with string keys, lists, numbers and strings.
Measurements = dict[str, Any]
# Receives the finished fraction of a run, and a text that names what is running.
Report = Callable[[float, str], None]


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
    """A noun phrase that names the effect, such as "error of plain-44 minus error of plain-8"."""
    unit: str
    """The unit, written after a number: " percentage points", " nats", " times"."""
    min_effect: float
    """The smallest effect that counts, in `unit`; it is fixed before the run. If the paper gives
    an effect, the smallest effect is at least a quarter of it. If the claim is that something is
    not worse, the smallest effect is negative: with -1, a deterioration by less than 1 still counts
    as not worse."""
    value: Callable[[Measurements], float]
    """Compute the effect from the measurements of one seed, usually as a difference or a ratio of
    two of them. In a deterministic experiment, NaN means that the best setting lies at the edge of
    the searched range."""


@dataclass(frozen=True)
class Experiment:
    """A claim, the runs that test it, and what the page says about them.

    All texts are whole sentences for a student who knows the field but not this project.
    """

    number: int
    """The position in the list of experiments, from 1."""
    name: str
    """The name on the command line: the name of the file, with dashes instead of underscores."""
    claim: str
    """The claim, in one or a few sentences."""
    source: str
    """The paper, with the number of the figure, table or section."""
    varied: str
    """The settings that differ between the compared networks or optimizers."""
    fixed: str
    """The settings that are the same for all of them."""
    measured: str
    """The quantities that are measured, and how."""
    look_at: str
    """Sentences that say what to look at in the figures and in the table."""
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
    """The measured duration of `run` for one seed with full effort, on one core with digits. The
    core has AVX-512; others can take three times as long."""
    fixed_seconds: float = 0.0
    """The part of `seconds` that does not depend on the effort, such as building the networks."""
    deterministic: bool = False
    """Whether the result is independent of the seed, so that there is one run and no interval."""
    findings: Callable[[Sequence[Measurements]], Sequence[str]] = lambda measurements: ()
    """Return sentences about the measurements of all seeds, computed from the numbers."""
    animations: Callable[[Sequence[Measurements]], Sequence[Animation]] = lambda measurements: ()
    """Draw moving figures from the measurements of all seeds."""
