"""Search: train trials until the time is over, and compare the best trial with the recipe."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_cnns.data import Splits
from keras_cnns.durations import format_seconds
from keras_cnns.files import PARTIAL, write_json, write_text
from keras_cnns.keras_internals import clear_session
from keras_cnns.lab.verdict import Verdict
from keras_cnns.recipes import Recipe, format_recipe, with_absolute_paths
from keras_cnns.runs.directory import check_data, describe_use
from keras_cnns.runs.ending import CALLBACK
from keras_cnns.runs.lock import locked
from keras_cnns.runs.logs import by_main_output
from keras_cnns.runs.names import CONFIG, RESULTS, SEARCH
from keras_cnns.runs.run import Run, open_run
from keras_cnns.training.callbacks.report_epoch import ReportEpoch
from keras_cnns.training.callbacks.stop_on_divergence import DivergedError
from keras_cnns.training.model import build_model, compile_model
from keras_cnns.training.trainer import train
from keras_cnns.tune.best_recipe import format_best
from keras_cnns.tune.budget import Clock, Plan, make_plan
from keras_cnns.tune.comparison import Comparison, comparison_seeds
from keras_cnns.tune.space import Space, Values, apply_values, format_values, recipe_values
from keras_cnns.tune.study import Study, Trial, trial_name

BEST = "best.toml"
_CLASSES = 2  # number of classes of a network that is built only as a check


@dataclass(frozen=True)
class Request:
    """The arguments of a search."""

    source: str  # the name or path of the recipe
    recipe: Recipe
    space: Space
    folder: Path
    minutes: float
    pruner: str = "median"
    seeds: int = 3  # number of seeds of the comparison at the end; 0: no comparison
    max_trials: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if a number is out of range."""
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"--minutes is {self.minutes}; it must be a finite number above 0")
        if self.seeds == 1:
            raise ValueError(
                "--seeds is 1, but an interval needs at least 2 seeds; 0 skips the comparison"
            )

    def fixed(self) -> dict[str, Any]:
        """Return the arguments that must not change if a search is continued, as JSON values."""
        return {
            "recipe": format_recipe(with_absolute_paths(self.recipe)),
            "search": {key: str(each) for key, each in self.space.items()},
            "pruner": self.pruner,
        }


@dataclass(frozen=True)
class Outcome:
    """The result of a search."""

    trials: Sequence[Trial]
    best: Trial  # the completed trial with the highest validation accuracy
    comparison: Comparison | None
    importances: Mapping[str, float]
    plan: Plan
    spent: float  # seconds

    @property
    def chosen(self) -> Trial:
        """Return the trial whose settings are in `best.toml`: the best trial or the recipe's trial.

        This is the best trial if the comparison has shown that it is better, or if no comparison
        was requested.
        """
        if self.comparison is None:
            is_best = not self.plan.needed
        else:
            is_best = self.comparison.verdict is Verdict.SUPPORTED
        return self.best if is_best else self.trials[0]

    def describe(self) -> str:
        """Return the result in whole sentences."""
        if len(self.trials) == 1:
            return (
                "Only the recipe itself was trained, and there is nothing to compare it with; "
                "give more --minutes or --trials."
            )
        if self.best.number == 1:
            return (
                f"Nothing was better than the recipe: none of the {len(self.trials) - 1} other "
                "trials was completed with a higher validation accuracy."
                if len(self.trials) > 2
                else "Nothing was better than the recipe: the other trial was not completed with a "
                "higher validation accuracy."
            )
        result = self.comparison.describe() if self.comparison else self._describe_difference()
        if self.chosen is self.best:
            return result
        path = f"{self.best.name}/{CONFIG}"
        return f"{result} The settings of trial {self.best.number} are in {path}, beside {BEST}."

    def _describe_difference(self) -> str:
        """Return a sentence on the result without a comparison over seeds."""
        why, remedy = "With --seeds 0 there was no", ""
        if self.plan.needed:
            minutes = self.plan.minutes_to_compare(self.spent)
            why = "There was no time for a"
            remedy = f" The same command with --minutes {minutes} compares them."
        return (
            f"Trial {self.best.number} has a validation accuracy of {self.best.accuracy:.2%}, and "
            f"the recipe {self.trials[0].accuracy:.2%}. {why} comparison over several seeds, so "
            f"the difference may be chance.{remedy}"
        )


@dataclass(frozen=True)
class Progress:
    """The current state of a search."""

    text: str
    spent: float  # seconds
    total: float  # seconds


def search(
    request: Request,
    *,
    log: Callable[[str], None] = print,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Train trials until the time is over, compare the best with the recipe, and write `best.toml`.

    The same call continues an interrupted search at the interrupted trial and epoch. A call with
    more minutes continues a finished search.

    Only validation accuracies select the settings; the test split is used only in the comparison
    after the selection.

    Args:
        request: the arguments.
        log: a function that receives a line for each trial and for the plan.
        show: a function that receives the progress after each epoch.

    Raises:
        ValueError: the directory is in use, or holds another search or other files; the time is too
            short for two trainings; or the recipe cannot be trained.
        DivergedError: the recipe's own training diverges.
    """
    folder = request.folder
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another directory")
    _check_networks(request)
    try:
        with locked(folder):
            return _Search(request, log, show).run()
    except BlockingIOError:
        raise ValueError(f"{folder} is in use: {describe_use(folder)}") from None


class _Search:
    """A search in a locked directory."""

    def __init__(
        self, request: Request, log: Callable[[str], None], show: Callable[[Progress], None]
    ) -> None:
        self.request, self.log, self.show = request, log, show
        self.state = _open_state(request)
        self.clock = Clock(self.state["spent"])
        own = recipe_values(request.recipe, request.space)
        epochs = request.recipe.training.epochs
        self.study = Study(request.folder, request.space, own, epochs, request.pruner)

    def run(self) -> Outcome:
        """Search, compare, and write the recipe of the best settings."""
        request = self.request
        if trials := self.study.trials():
            count = "1 trial" if len(trials) == 1 else f"{len(trials)} trials"
            self.log(
                f"{request.folder}: resuming after {count} and {format_seconds(self.clock.spent)}"
            )
            check_data(request.folder / trials[0].name, Splits(request.recipe.data).fingerprint())
        if self.state["searched"] != [request.minutes, request.max_trials]:
            while self._has_time():
                self._run_trial()
            self.state["searched"] = [request.minutes, request.max_trials]
        trials = self.study.trials()
        best = _find_best(trials)
        comparison = self._compare(best)
        self._save_spent()
        plan = self._plan()
        importances = self.study.importances()
        outcome = Outcome(trials, best, comparison, importances, plan, self.clock.spent)
        text = format_best(
            request.source,
            self._recipe_of(outcome.chosen.number, outcome.chosen.values),
            outcome.describe(),
            best,
            is_best=outcome.chosen is best,
        )
        write_text(request.folder / BEST, text)
        return outcome

    def _recipe_of(self, number: int, values: Values) -> Recipe:
        """Return the recipe of a trial; the first trial has the unchanged recipe of the search."""
        recipe = self.request.recipe
        return recipe if number == 1 else apply_values(recipe, values)

    def _plan(self) -> Plan:
        return make_plan(self.request.minutes, self.study.trials()[0].seconds, self.request.seeds)

    def _has_time(self) -> bool:
        trials = self.study.trials()
        if not trials:
            return True
        limit = self.request.max_trials
        return (limit is None or len(trials) < limit) and bool(
            self._plan().fitting(self.clock.spent)
        )

    def _run_trial(self) -> None:
        """Train the interrupted trial, if there is one, or a new trial."""
        trial, values = self.study.next_trial()
        number = trial.number + 1
        is_first = number == 1
        recipe = self._recipe_of(number, values)
        best = max((each.accuracy for each in self.study.trials()), default=math.nan)
        if self.state["trial"] != number:
            self.state |= {"trial": number, "began": self.clock.spent}
            self._save_spent()

        def report(epoch: int, accuracy: float) -> bool:
            is_pruned = self.study.report(trial, epoch, accuracy)
            epochs = recipe.training.epochs
            self._show(f"trial {number}, epoch {epoch} of {epochs}: {accuracy:.1%}")
            self._save_spent()
            if is_first:
                self._check_time(epoch)
            return is_pruned

        text = f"trial {number}: {'the recipe itself' if is_first else format_values(values)}"
        self._show(text)
        try:
            run = self._train(recipe, trial_name(number), ReportEpoch(report))
        except DivergedError:
            if is_first:
                raise
            state, accuracy = "diverged", math.nan
        else:
            accuracies = [by_main_output(row)["val_accuracy"] for row in run.history()]
            # Report all epochs again: the pruner may have decided in an earlier process, which was
            # killed.
            answers = [
                self.study.report(trial, epoch, each) for epoch, each in enumerate(accuracies, 1)
            ]
            is_cut_off = run.results()["ended_by"] == CALLBACK  # ended before the last epoch
            state = "pruned" if any(answers) and is_cut_off else "completed"
            accuracy = max(accuracies)
        seconds = self.clock.spent - self.state["began"]
        self.study.finish(trial, state, accuracy, seconds)
        self._save_spent()
        result = "diverged" if state == "diverged" else f"{accuracy:.2%}"
        pruned = ", pruned" if state == "pruned" else ""
        before = "" if math.isnan(best) else f" (best before: {best:.2%})"
        self.log(f"{text}: {result}{pruned}{before}, {format_seconds(seconds)}")
        if is_first:
            self.log(self._plan().describe(self.clock.spent))

    def _check_time(self, epoch: int) -> None:
        """Raise ValueError if the first trial shows that the time is too short."""
        epochs = self.request.recipe.training.epochs
        expected = (self.clock.spent - self.state["began"]) / epoch * epochs
        if epoch > 1 and 2 * expected > 60 * self.request.minutes:
            minutes = math.ceil(expected * (4 + 2 * self.request.seeds) / 60)
            raise ValueError(
                f"one training of this recipe takes about {format_seconds(expected)}, and a "
                f"search of {self.request.minutes:g} minutes has no time for a second one. Give "
                f"--minutes {minutes} or more, or shorten the trainings: --set training.epochs=N"
            )

    def _compare(self, best: Trial) -> Comparison | None:
        """Train the recipe and the best settings with other seeds if there is time."""
        if best.number == 1 or not self._plan().reserved:
            return None
        request = self.request
        seeds = comparison_seeds(request.recipe.training.seed, request.seeds)
        settings = {1: request.recipe, best.number: self._recipe_of(best.number, best.values)}
        accuracies: dict[int, list[float]] = {number: [] for number in settings}
        self.log(f"Comparing trial {best.number} with the recipe, {len(seeds)} seeds each.")
        for seed in seeds:
            for number, recipe in settings.items():
                name = f"{trial_name(number)}-seed-{seed}"

                def report(epoch: int, accuracy: float, name: str = name) -> bool:
                    self._show(f"{name}, epoch {epoch} of {request.recipe.training.epochs}")
                    self._save_spent()
                    return False

                self._show(name)
                try:
                    run = self._train(_with_seed(recipe, seed), name, ReportEpoch(report))
                except DivergedError:
                    self.log(f"{name}: diverged")
                    return Comparison(best.number, diverged=(number, seed))
                accuracy = run.results()["test"]["accuracy"]
                accuracies[number].append(accuracy)
                self.log(f"{name}: test accuracy {accuracy:.2%}")
        return Comparison(best.number, seeds, tuple(accuracies[1]), tuple(accuracies[best.number]))

    def _train(self, recipe: Recipe, name: str, callback: keras.callbacks.Callback) -> Run:
        """Return the finished run of a recipe; start or continue the training if necessary."""
        path = self.request.folder / name
        if (path / RESULTS).exists():
            return open_run(path)
        clear_session()
        return train(recipe, path, callbacks=[callback], quiet=True)

    def _show(self, text: str) -> None:
        self.show(Progress(text, self.clock.spent, 60 * self.request.minutes))

    def _save_spent(self) -> None:
        self.state["spent"] = self.clock.spent
        write_json(self.request.folder / SEARCH, self.state)


def _check_networks(request: Request) -> None:
    """Raise ValueError if a network or an optimizer in the search space does not exist.

    Otherwise, a trial with that network or optimizer would fail in the middle of the search.
    """
    for key, values in request.space.items():
        names = values.ends() if key.startswith(("model.", "optimizer.")) else ()
        for name in names:
            if isinstance(name, str):
                recipe = apply_values(request.recipe, {key: name})
                try:
                    compile_model(build_model(recipe, _CLASSES), recipe, 1)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"--search {key}={name}: {error}") from None
                finally:
                    clear_session()


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return apply_values(recipe, {"training.seed": seed})


def _find_best(trials: Sequence[Trial]) -> Trial:
    """Return the first of the completed trials with the highest validation accuracy."""
    completed = [each for each in trials if each.state == "completed"]
    return max(completed, key=lambda each: (each.accuracy, -each.number))


def _open_state(request: Request) -> dict[str, Any]:
    """Return the saved state of the search in a directory; a new state if the directory is empty.

    Raises:
        ValueError: the directory holds other files, or a search with other arguments.
    """
    path, fixed = request.folder / SEARCH, request.fixed()
    if not path.exists():
        if any(PARTIAL not in each.name for each in request.folder.iterdir()):
            raise ValueError(
                f"{request.folder} is not the directory of a search: it has files, but no "
                f"{SEARCH}; choose another directory"
            )
        new = {"arguments": fixed, "spent": 0.0, "searched": None, "trial": 0, "began": 0.0}
        write_json(path, new)
        return new
    try:
        state: dict[str, Any] = dict(json.loads(path.read_text("utf-8")))
        former = {key: state["arguments"][key] for key in fixed}
        state["spent"], state["began"] = float(state["spent"]), float(state["began"])
        state["trial"], state["searched"] = state["trial"], state["searched"]
        if not 0 <= state["began"] <= state["spent"] < math.inf:
            raise ValueError(
                f"the times began = {state['began']} and spent = {state['spent']} are impossible"
            )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: {error}; remove {request.folder}, or choose another directory"
        ) from None
    for key, value in fixed.items():
        if former[key] != value:
            raise ValueError(
                f"{request.folder} holds a search with another {key}: "
                f"{_difference(former[key], value)}. Give the same arguments to continue, or "
                "choose another directory"
            )
    return state


def _difference(former: Any, value: Any) -> str:
    """Return the first difference between two sets of arguments as text."""
    if isinstance(value, dict):
        pairs = [(each, former.get(each), value.get(each)) for each in {**former, **value}]
        key, there, here = next(each for each in pairs if each[1] != each[2])
        return f"{key} is {there} there and {here} here"
    there_lines, here_lines = former.splitlines(), value.splitlines()
    there = [each for each in there_lines if each not in here_lines]
    here = [each for each in here_lines if each not in there_lines]
    return f"{', '.join(there[:3])} there and {', '.join(here[:3])} here"
