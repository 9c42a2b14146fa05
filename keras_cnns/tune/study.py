"""The study of a search: its trials in Optuna's journal, its sampler and its pruners."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cnns.files import replacing
from keras_cnns.suggestions import find
from keras_cnns.tune.space import Space, Values

try:
    import optuna
except ModuleNotFoundError as missing:
    if missing.name != "optuna":
        raise
    raise RuntimeError(
        "`keras-cnns tune` needs Optuna: pip install 'keras-cnns[tune]'"
    ) from missing

JOURNAL = "journal.log"
_NAME = "tune"
_RANDOM_TRIALS = 5  # random trials before the sampler models the results and pruning begins
_MIN_FOR_IMPORTANCE = 4  # minimum number of completed trials
# User attributes of a trial in the journal.
_VALUES, _SECONDS, _STATE = "values", "seconds", "state"

# Name -> a function that takes the number of epochs of a training, and returns the pruner. The
# median pruner does not prune in the first third of the epochs. With a high learning rate, the
# accuracy rises late, so an earlier decision would prefer low learning rates.
_PRUNERS: dict[str, Callable[[int], Any]] = {
    "median": lambda epochs: optuna.pruners.MedianPruner(
        n_startup_trials=_RANDOM_TRIALS - 1, n_warmup_steps=epochs // 3
    ),
    "asha": lambda epochs: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=max(1, epochs // 9), reduction_factor=3
    ),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(
        min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3
    ),
    "none": lambda epochs: optuna.pruners.NopPruner(),
}


@dataclass(frozen=True)
class Trial:
    """A trial that has ended."""

    number: int  # counted from 1; the first trial has the recipe's own settings
    state: str  # "completed", "pruned" or "diverged"
    accuracy: float  # the highest validation accuracy of its epochs; NaN if no epoch was finished
    epochs: int
    seconds: float
    values: Values

    @property
    def name(self) -> str:
        """Return the name of the trial's run directory."""
        return trial_name(self.number)


def trial_name(number: int) -> str:
    """Return the name of a trial's run directory; the trials are counted from 1."""
    return f"trial-{number:04d}"


class _Journal(optuna.storages.journal.JournalFileBackend):
    """Optuna's journal, whose errors name the file, for example when the disk is full."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records to the file."""
        try:
            super().append_logs(logs)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


class Study:
    """The trials of a search, in a journal that survives a killed process.

    Only one process may open it, so the caller must hold a lock.

    Args:
        folder: the directory of the journal.
        space: the search space.
        own: the recipe's own values, which the first trial has.
        epochs: the number of epochs of a training.
        pruner: a key of the table of pruners.

    Raises:
        ValueError: there is no such pruner, or the journal is damaged.
    """

    def __init__(self, folder: Path, space: Space, own: Values, epochs: int, pruner: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.own = space, own
        self._pruner = find(pruner, _PRUNERS, "pruner")(epochs)
        self._decisions: dict[int, bool] = {}  # epoch of the current trial -> whether to prune it
        path = folder / JOURNAL
        _repair(path)
        try:
            self._study = self._open(path)
            self._interrupted = self._remove_interrupted(path)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(
                f"{path} is damaged: {error}; remove {folder}, or choose another directory"
            ) from error

    def _open(self, path: Path) -> Any:
        backend = _Journal(path)
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=_NAME,
            direction="maximize",
            load_if_exists=True,
            pruner=self._pruner,
        )

    def _remove_interrupted(self, path: Path) -> Any:
        """Remove the interrupted trial from the journal, and return it; None if there is none.

        All records of the trial are removed: successive halving records its decisions in the
        journal, and would decide differently if they were still there when an epoch is reported
        again.
        """
        trials = self._study.get_trials()
        ended = [each for each in trials if each.state in _ENDED]
        if len(ended) == len(trials):
            return None
        with replacing(path) as partial:
            partial.unlink(missing_ok=True)
            self._open(partial).add_trials(ended)
        self._study = self._open(path)
        (interrupted,) = trials[len(ended) :]
        return interrupted

    def next_trial(self) -> tuple[Any, Values]:
        """Return a new trial or the interrupted one, and its values.

        The values depend only on earlier trials. An interrupted trial therefore gets the same
        values again, and the same decisions, because its epochs are reported again in the same
        order.
        """
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = optuna.samplers.TPESampler(
            seed=number, n_startup_trials=_RANDOM_TRIALS
        )
        interrupted, self._interrupted = self._interrupted, None
        self._decisions = {}
        if number == 0:
            # The sampler learns from those of the recipe's values that lie in the search space.
            self._study.enqueue_trial(
                {key: own for key, own in self.own.items() if self.space[key].contains(own)}
            )
        elif interrupted and _VALUES in interrupted.user_attrs:
            self._study.enqueue_trial(interrupted.params)
        trial = self._study.ask()
        values = dict(self.own) if number == 0 else {}
        for key, each in self.space.items():
            if number > 0:
                values[key] = each.suggest(trial, key)
            elif each.contains(self.own[key]):
                each.suggest(trial, key)
        trial.set_user_attr(_VALUES, values)
        for epoch, accuracy in (interrupted.intermediate_values if interrupted else {}).items():
            self.report(trial, epoch, accuracy)
        return trial, values

    def report(self, trial: Any, epoch: int, accuracy: float) -> bool:
        """Record the validation accuracy of an epoch; return whether to prune the trial.

        The pruner decides once about each epoch. If a resumed training repeats an epoch, the first
        decision is returned again. The epochs of the first trial are reported too, so that the
        pruner can compare the other trials with it, but the first trial is never pruned.
        """
        if epoch not in self._decisions:
            trial.report(accuracy, epoch)
            self._decisions[epoch] = bool(trial.should_prune())
        return trial.number > 0 and self._decisions[epoch]

    def finish(self, trial: Any, state: str, accuracy: float, seconds: float) -> None:
        """Record the end of a trial."""
        trial.set_user_attr(_SECONDS, seconds)
        trial.set_user_attr(_STATE, state)
        if state == "completed":
            self._study.tell(trial, accuracy)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def trials(self) -> list[Trial]:
        """Return the ended trials in their order."""
        return [
            Trial(
                number=each.number + 1,
                state=each.user_attrs[_STATE],
                accuracy=max(each.intermediate_values.values(), default=float("nan")),
                epochs=len(each.intermediate_values),
                seconds=each.user_attrs[_SECONDS],
                values=dict(each.user_attrs[_VALUES]),
            )
            for each in self._study.get_trials(deepcopy=False, states=_ENDED)
        ]

    def importances(self) -> Mapping[str, float]:
        """Return key -> fraction of the accuracy's variance that the key explains (fANOVA).

        See Hutter et al. 2014, "An Efficient Approach for Assessing Hyperparameter Importance".
        Only completed trials whose values all lie in the search space count. The result is empty if
        there are fewer than four of them, or if all of them have the same accuracy.
        """
        completed = [
            each
            for each in self._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
            if each.params.keys() == self.space.keys()
        ]
        if len(completed) < _MIN_FOR_IMPORTANCE or len({each.value for each in completed}) < 2:
            return {}
        study = optuna.create_study(direction="maximize")  # in memory
        study.add_trials(completed)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found: Mapping[str, float] = optuna.importance.get_param_importances(
            study, evaluator=evaluator
        )
        return found


_ENDED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


def _repair(path: Path) -> None:
    """Remove the remains of a killed process: an incomplete line and a lock of the journal."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                json.loads(line)
            except ValueError:
                raise ValueError(
                    f"{path}: line {number} is damaged; remove {path.parent}, or choose another "
                    "directory"
                ) from None
    for lock in path.parent.glob(f"{path.stem}*.lock*"):
        lock.unlink()
