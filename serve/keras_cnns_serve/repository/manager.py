"""Load, replace and drain the served versions.

Requests only read the table of models, and one thread at a time changes it. A new version is loaded
and warmed up while the old version serves. It is published by a single assignment, after which the
old version finishes its requests. A version that cannot be loaded changes nothing, and the reason
is logged.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from keras_cnns_serve.errors import (
    ConfigError,
    ModelNotFoundError,
    ModelUnavailableError,
    VersionRefusedError,
    one_line,
)

from .configuration import ModelConfig, ServerConfig
from .files import (
    ModelVersion,
    find_models,
    find_versions,
    fingerprint,
    is_temporary,
    read_version,
)
from .memory import give_memory_back, trim
from .states import Model, State, VersionStatus

logger = logging.getLogger(__name__)

_MAX_REASON = 400  # maximum number of characters
_MAX_ENDED = 16  # maximum number of ended versions of a model whose states are still reported


class _Servable(Protocol):
    """A loaded version."""

    @property
    def description(self) -> str:
        """Return a description of how the version runs, for the log."""

    @property
    def notice(self) -> str:
        """Return a message for the status of the served version; often empty."""

    def close(self) -> None:
        """Finish the requests in flight and free the version."""


S = TypeVar("S", bound=_Servable)


@dataclass
class _Known:
    """The state of a model, whether or not it is served."""

    states: dict[int, VersionStatus] = field(default_factory=dict)
    # For each refused version: the fingerprint of its files (None if the cause is temporary), and
    # the reason.
    refused: dict[int, tuple[object, str]] = field(default_factory=dict)
    # For each version with a temporary cause of refusal: this cause.
    hindered: dict[int, str] = field(default_factory=dict)
    problem: str = ""  # why some or all versions in its directory cannot be served
    unloaded: bool = False  # whether an administrator has unloaded it


class Manager(Generic[S]):
    """Serve the versions that the configuration and the model repository specify.

    Args:
        config: the models to serve, and their policies.
        start: loads a version and warms it up.
    """

    def __init__(self, config: ServerConfig, start: Callable[[ModelVersion], S]) -> None:
        self._config = config
        self._start = start
        # Held during a change, so that there is one change at a time.
        self._changing = threading.RLock()
        self._closed = False
        self._known: dict[str, _Known] = {}
        self._drains: list[threading.Thread] = []
        # This mapping is replaced and never changed, so that readers need no lock.
        self.models: Mapping[str, Model[S]] = {}

    def sync(self) -> None:
        """Load and retire versions, so that exactly the configured versions are served.

        Raises:
            RepositoryError: the directory of all models cannot be read; nothing changes.
        """
        with self._changing:
            models = self._configured()
            self._settle(models, self._load_all(models))

    def reconfigure(self, config: ServerConfig) -> None:
        """Serve the models of another configuration.

        Raises:
            ConfigError: a model is listed twice, or a label refers to a version that is not
                served. The old configuration stays, and its versions are served without a pause.
        """
        names = [model.name for model in config.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"the model {twice[0]!r} is configured twice")
        with self._changing:
            before, self._config = self._config, config
            try:
                models = self._configured()
                staying = self._load_all(models)
                _check_labels(models, staying)
            except Exception:
                self._config = before
                self.sync()
                raise
            self._settle(models, staying)

    def load(self, name: str) -> None:
        """Load the versions of a model, including those that were refused or unloaded before.

        Raises:
            ModelNotFoundError: there is no model of this name.
            ModelUnavailableError: no version of the model can be loaded.
        """
        with self._changing:
            model = self._configured_model(name)
            known = self._known.setdefault(name, _Known())
            known.unloaded = False
            known.refused.clear()
            self._settle_model(model, self._load_model(model))
            if not self._versions(name):
                raise ModelUnavailableError(f"{name} cannot be loaded: {self.reason(name)}")

    def unload(self, name: str) -> None:
        """Retire all versions of a model until it is loaded again.

        Raises:
            ModelNotFoundError: there is no model of this name.
        """
        with self._changing:
            self._configured_model(name)
            self._known.setdefault(name, _Known()).unloaded = True
            self._retire(name, set(self._versions(name)))

    def close(self, seconds: float | None = None) -> None:
        """Stop loading, retire all versions and wait for requests in flight.

        If a version is still being loaded after `seconds`, it is closed later, by the thread that
        loads it.

        Args:
            seconds: the maximum time to wait; None: no limit.
        """
        self._closed = True
        end = None if seconds is None else time.monotonic() + seconds
        # The thread that loads a version holds the lock, perhaps for longer than `seconds`.
        if not self._changing.acquire(timeout=-1 if seconds is None else seconds):
            return
        try:
            for name in list(self.models):
                self._retire(name, set(self._versions(name)))
            drains = list(self._drains)
        finally:
            self._changing.release()
        for drain in drains:
            drain.join(None if end is None else max(0.0, end - time.monotonic()))

    def names(self) -> list[str]:
        """Return the names of all known models, served or not."""
        return sorted(self._known)

    def states(self, name: str) -> list[VersionStatus]:
        """Return the states of all known versions of a model, the newest first."""
        known = self._known.get(name)
        return [] if known is None else [s for _, s in sorted(known.states.items(), reverse=True)]

    def reason(self, name: str) -> str:
        """Return why a model, or its newest version, is not served; empty if no reason is known."""
        known = self._known.get(name)
        if known is None:
            return ""
        if known.unloaded:
            return "it was unloaded"
        reasons = (state.message for state in self.states(name) if state.message)
        return next(reasons, known.problem)

    def refusals(self) -> list[str]:
        """Return a line for each model or version that was refused: `digits/2 refused: ...`."""
        lines = []
        for name, known in sorted(self._known.items()):
            if known.problem:
                lines.append(f"{name} refused: {known.problem}")
            for version, (_, reason) in sorted(known.refused.items()):
                lines.append(f"{name}/{version} refused: {reason}")
        return lines

    def _configured(self) -> list[ModelConfig]:
        config = self._config
        models = list(config.models)
        if config.root is not None:
            found = find_models(config.root)
            # A model whose directory is missing stays, because the disk may be unavailable for a
            # moment.
            paths = {name: config.root / name for name in self._known} | found
            models += [ModelConfig(name, path, config.policy) for name, path in paths.items()]
        return models

    def _configured_model(self, name: str) -> ModelConfig:
        for model in self._configured():
            if model.name == name:
                return model
        raise ModelNotFoundError(f"there is no model {name!r:.80} in the repository")

    def _versions(self, name: str) -> Mapping[int, S]:
        return self.models[name].versions if name in self.models else {}

    def _load_all(self, models: Sequence[ModelConfig]) -> dict[str, set[int]]:
        """Load the missing versions, without retiring any, and return the versions that stay."""
        return {model.name: self._load_model(model) for model in models}

    def _settle(self, models: Sequence[ModelConfig], staying: Mapping[str, set[int]]) -> None:
        """Retire the versions that do not stay, after all new ones were published."""
        for name in [name for name in self._known if name not in staying]:
            self._retire(name, set(self._versions(name)))
            del self._known[name]
        for model in models:
            self._settle_model(model, staying[model.name])

    def _settle_model(self, model: ModelConfig, staying: set[int]) -> None:
        # The labels move first, so that none of them refers to a retired version.
        if model.name in self.models and self.models[model.name].labels != model.labels:
            self._publish(model.name, self._versions(model.name), model.labels)
        self._retire(model.name, set(self._versions(model.name)) - staying)

    def _load_model(self, model: ModelConfig) -> set[int]:
        known = self._known.setdefault(model.name, _Known())
        served = set(self._versions(model.name))
        if known.unloaded:
            return served
        try:
            found = find_versions(model.name, model.base_path)
        except OSError as error:
            problem = f"its directory cannot be read: {error.strerror}"
            versions: dict[int, Path] = {}
        else:
            problem, versions = found.problem, found.versions
        if problem and problem != known.problem:
            logger.warning("%s refused: %s (%s)", model.name, problem, model.base_path)
        known.problem = problem
        # If no version was found, keep the served versions, because the disk may be unavailable.
        return (self._load_wanted(model, known, versions) if versions else set()) or served

    def _load_wanted(
        self, model: ModelConfig, known: _Known, versions: dict[int, Path]
    ) -> set[int]:
        """Load and return the versions that the policy chooses; refused versions are excluded."""
        for version, (mark, _) in list(known.refused.items()):
            if version not in versions or fingerprint(versions[version]) != mark:
                # Try again, since the files have changed or the cause was temporary.
                del known.refused[version]
                if mark is not None:
                    known.states.pop(version, None)
        for version in known.hindered.keys() - versions.keys():
            del known.hindered[version]
            known.states.pop(version, None)
        while True:
            wanted = model.policy.choose([v for v in versions if v not in known.refused])
            new = sorted(wanted - set(self._versions(model.name)))
            if not new or self._closed:
                return wanted
            for version in new:
                if version not in known.hindered:
                    known.states[version] = VersionStatus(version, State.START)
            for version in reversed(new):
                if not self._closed:
                    self._load(model, known, version, versions[version])

    def _load(self, model: ModelConfig, known: _Known, version: int, path: Path) -> None:
        if version not in known.hindered:
            known.states[version] = VersionStatus(version, State.LOADING)
        mark = fingerprint(path)
        try:
            servable = self._start(read_version(model.name, version, path))
        except Exception as error:  # an error of one version must not affect the others
            expected = isinstance(error, VersionRefusedError)
            text = str(error) if expected else f"it cannot be loaded: {one_line(error)}"
            reason = _without_directory(text, path)[:_MAX_REASON]
            temporary = is_temporary(error)
            logger.debug("%s/%d", model.name, version, exc_info=not expected)
            known.refused[version] = (None if temporary else mark, reason)
            known.states[version] = VersionStatus(version, State.END, "FAILED_PRECONDITION", reason)
            if known.hindered.pop(version, None) != reason:  # log it once, not at each poll
                logger.warning("%s/%d refused: %s", model.name, version, reason)
            if temporary:
                known.hindered[version] = reason
            return
        if self._closed:
            servable.close()
            return
        known.hindered.pop(version, None)
        # The new labels are published only after all versions are loaded, because until then the
        # configuration can still be refused.
        labels = self.models[model.name].labels if model.name in self.models else model.labels
        versions = {**self._versions(model.name), version: servable}
        self._publish(model.name, dict(sorted(versions.items())), labels)
        notice = servable.notice[:_MAX_REASON]
        known.states[version] = VersionStatus(version, State.AVAILABLE, message=notice)
        trim()  # return memory to the system, since loading needs more than serving
        logger.info("%s/%d is available: %s", model.name, version, servable.description)

    def _publish(self, name: str, versions: Mapping[int, S], labels: Mapping[str, int]) -> None:
        models = dict(self.models)
        models.pop(name, None)
        if versions:
            models[name] = Model(versions, labels)
        self.models = dict(sorted(models.items()))

    def _retire(self, name: str, versions: set[int]) -> None:
        served = self._versions(name)
        going = {version: served[version] for version in versions}
        if not going:
            return
        staying = {version: s for version, s in served.items() if version not in going}
        self._publish(name, staying, self.models[name].labels)
        known = self._known[name]
        for version, servable in going.items():
            known.states[version] = VersionStatus(version, State.UNLOADING)
            drain = threading.Thread(
                target=self._drain, args=(name, known, version, [servable]), daemon=True
            )
            self._drains = [thread for thread in self._drains if thread.is_alive()]
            self._drains.append(drain)
            drain.start()

    def _drain(self, name: str, known: _Known, version: int, going: list[S]) -> None:
        going.pop().close()  # pop, so that no reference remains when memory is returned
        give_memory_back()
        with self._changing:
            if known.states.get(version) == VersionStatus(version, State.UNLOADING):
                known.states[version] = VersionStatus(version, State.END)
            ended = [v for v, s in known.states.items() if s.state == State.END and not s.message]
            for old in sorted(ended)[:-_MAX_ENDED]:
                del known.states[old]
        logger.info("%s/%d is unloaded", name, version)


def _without_directory(text: str, path: Path) -> str:
    """Remove the path of the version's directory from a reason, which clients can read."""
    for directory in (path, path.absolute(), path.resolve()):
        text = text.replace(f"{directory}{os.sep}", "").replace(str(directory), "its directory")
    return text


def _check_labels(models: Sequence[ModelConfig], staying: Mapping[str, set[int]]) -> None:
    for model in models:
        for label, version in model.labels.items():
            if version not in staying[model.name]:
                raise ConfigError(
                    f"the label {label!r} of {model.name} refers to version {version}, which "
                    "is not served"
                )
