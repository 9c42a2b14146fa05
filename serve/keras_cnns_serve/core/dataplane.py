"""The core of the server, independent of protocols: models, status, metadata, predictions.

Each protocol translates requests into these calls, and errors (`errors.py`) into status codes.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from keras_cnns_serve.core.servable import Options, Servable, start_servable
from keras_cnns_serve.errors import (
    ConfigError,
    ForbiddenError,
    InvalidInputError,
    ModelNotFoundError,
    ModelUnavailableError,
    RepositoryError,
    ServeError,
    code_name,
)
from keras_cnns_serve.images.activation_maps import OPACITY, overlay
from keras_cnns_serve.images.decoding import PILLOW_MAX_PIXELS, EncodedImage
from keras_cnns_serve.repository.configuration import ServerConfig
from keras_cnns_serve.repository.files import ModelVersion, fingerprint
from keras_cnns_serve.repository.manager import Manager
from keras_cnns_serve.repository.manifest import Tensor
from keras_cnns_serve.repository.policy import Latest, VersionPolicy
from keras_cnns_serve.repository.states import State, VersionStatus
from keras_cnns_serve.repository.watcher import Watcher

from .admin import AdminThread
from .batching import MEMORY_SECONDS, ClosedError, Job
from .inputs import check_contents, check_images, check_outputs, pixel_bytes
from .limits import INLINE_BYTES, Claim
from .metrics import Statistics
from .prediction import Prediction, ScoredLabel, Target, Timing, best_labels
from .threads import PARSING, Threads

_DRAWING = Threads("draw", 1)


@dataclass(frozen=True)
class ModelSummary:
    """A served model, for the list of models."""

    name: str
    versions: tuple[int, ...]  # the served versions, ascending; the last one is the default
    input: Tensor  # input of the default version
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...]
    engine: Mapping[str, str | int]  # `engine_info` of the default version


@dataclass(frozen=True)
class IndexEntry:
    """A version of a model, served or not; `version` is None if the model has no version."""

    name: str
    version: int | None
    state: State
    reason: str  # why it is not served, or why a preferred format was rejected; often empty


class Dataplane:
    """The served models and the operations on them.

    Args:
        config: the models to serve.
        options: the options of engines, batching and limits.

    Raises:
        RepositoryError: the model repository does not exist.
    """

    def __init__(self, config: ServerConfig, options: Options | None = None) -> None:
        options = options or Options()
        self.manager: Manager[Servable] = Manager(config, partial(start_servable, options=options))
        self.budget = options.budget  # limits the memory of clients, here and in the transports
        self.disagreements = options.disagreements  # counts of rejected formats
        self._admin = options.admin
        self._changes = AdminThread()
        self._watcher: Watcher | None = None
        self.draining = False  # whether the server is stopping and should get no new requests
        self._end: float | None = None  # time.monotonic() by which the server must have stopped
        self.manager.sync()

    @classmethod
    def open(
        cls, root: Path, *, policy: VersionPolicy | None = None, options: Options | None = None
    ) -> "Dataplane":
        """Serve a model repository, or the directory of one model.

        Raises:
            RepositoryError: the directory does not exist, or has no model that can be served.
        """
        dataplane = cls(ServerConfig(root=root, policy=policy or Latest()), options)
        dataplane.require_models(str(root))
        return dataplane

    def require_models(self, source: str) -> None:
        """Raise an error if no model is served.

        Args:
            source: the directory or file of the models, for the message.

        Raises:
            RepositoryError: no model is served; the message has the reasons.
        """
        if not self.manager.models:
            reasons = "".join(f"\n{line}" for line in self.manager.refusals())
            raise RepositoryError(
                f"{source} has no model that can be served"
                + (reasons or "; export one there, for instance as models/digits/1/model.json")
            )

    def watch(
        self, seconds: float, changed: Callable[[], ServerConfig | None] = lambda: None
    ) -> None:
        """Poll for new versions until `close`.

        Args:
            seconds: the interval; 0: never.
            changed: returns the configuration if it has changed since the last call, or else None.
        """
        refused: tuple[ServerConfig, object] | None = None

        def poll() -> None:
            nonlocal refused
            pending, refused = refused, None
            config = changed()
            if config is None and pending:
                if pending[1] == _labelled_files(pending[0]):
                    refused = pending
                else:  # a version to which a label refers may be complete now
                    config = pending[0]
            if config is None:
                self.manager.sync()
                return
            try:
                self.manager.reconfigure(config)
            except ConfigError:
                refused = config, _labelled_files(config)
                raise

        if seconds:
            self._watcher = Watcher(poll, seconds)
            self._watcher.start()

    def stop(self, seconds: float | None = None) -> None:
        """Report that the server is not ready, but answer requests for at most `seconds`."""
        self.draining = True
        if self._end is None and seconds is not None:
            self._end = time.monotonic() + seconds

    def close(self, seconds: float | None = None) -> None:
        """Finish the requests in flight, and end the threads within the time limit.

        Args:
            seconds: the time limit; it has no effect if an earlier call of `stop` set one.
        """
        self.stop(seconds)
        self._changes.close()
        if self._watcher is not None:
            self._watcher.stop(self._remaining())
        self.manager.close(self._remaining())

    def _remaining(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def models(self) -> list[ModelSummary]:
        """Return the served models, sorted by name."""
        return [
            ModelSummary(
                name,
                tuple(model.versions),
                model.newest.source.manifest.input,
                model.newest.source.manifest.outputs,
                model.newest.source.labels,
                model.newest.engine_info(),
            )
            for name, model in self.manager.models.items()
        ]

    def index(self) -> list[IndexEntry]:
        """Return all known models and versions, with their states and the reasons of refusals."""
        entries = []
        for name in self.manager.names():
            states = self.manager.states(name)
            entries += [IndexEntry(name, s.version, s.state, s.message) for s in states[::-1]]
            if not states:
                entries.append(IndexEntry(name, None, State.END, self.manager.reason(name)))
        return entries

    def ready(self, target: Target | None = None) -> bool:
        """Return whether a target can answer requests; without a target, whether the server can."""
        if self.draining:
            return False
        if target is None:
            return bool(self.manager.models)
        try:
            self._find(target)
        except ServeError:
            return False
        return True

    def check_admin(self) -> None:
        """Raise ForbiddenError unless clients may load, unload and configure models."""
        if not self._admin:
            raise ForbiddenError("administration is disabled; start the server with --admin")

    async def load(self, name: str, deadline: float | None = None) -> None:
        """Load a model, even if it was loaded before.

        Raises:
            DeadlineExceededError: the deadline has passed; the change may still take effect.
            ForbiddenError: administration is disabled.
            ModelNotFoundError: the repository has no such model.
            ModelUnavailableError: no version of the model can be loaded.
        """
        await self._change(deadline, partial(self.manager.load, name))

    async def unload(self, name: str, deadline: float | None = None) -> None:
        """Stop serving a model until it is loaded again.

        Raises:
            DeadlineExceededError: the deadline has passed; the change may still take effect.
            ForbiddenError: administration is disabled.
            ModelNotFoundError: the repository has no such model.
        """
        await self._change(deadline, partial(self.manager.unload, name))

    async def reload_config(self, config: ServerConfig, deadline: float | None = None) -> None:
        """Serve the models of another configuration.

        Raises:
            DeadlineExceededError: the deadline has passed; the change may still take effect.
            ForbiddenError: administration is disabled.
            ConfigError: the configuration is wrong; the old configuration stays.
        """
        await self._change(deadline, partial(self.manager.reconfigure, config))

    async def _change(self, deadline: float | None, make: Callable[[], None]) -> None:
        self.check_admin()
        await self._changes.call(deadline, make)

    def served(self) -> list[Servable]:
        """Return all served versions, sorted by model and number, with up-to-date metrics."""
        servables = [
            servable
            for model in self.manager.models.values()
            for servable in model.versions.values()
        ]
        for servable in servables:
            servable.recorder.flush()
        return servables

    def engine_info(self, target: Target) -> dict[str, str | int]:
        """Return the file, engine, precision and threads of a version, and why they were chosen.

        Raises:
            ModelNotFoundError, ModelUnavailableError: as for `metadata`.
        """
        return self._find(target).engine_info()

    def statistics(self, target: Target) -> list[Statistics]:
        """Return the statistics of the target's version; without one, those of all served versions.

        Raises:
            ModelNotFoundError, ModelUnavailableError: as for `metadata`.
        """
        servables = [self._find(target)]
        if target.version is None and target.label is None:
            servables = list(self.manager.models[target.name].versions.values())
        return [
            servable.recorder.statistics(servable.source.name, servable.source.version)
            for servable in servables
        ]

    def status(self, target: Target) -> list[VersionStatus]:
        """Return the state of the target's version; without one, of all versions, the newest first.

        Raises:
            ModelNotFoundError: the repository has no such model or version.
        """
        name = target.name
        version = self._labelled(target) if target.label is not None else target.version
        states = self.manager.states(name)
        if not states:
            raise ModelNotFoundError(
                f"Could not find any versions of model {name}; {self._known(name)}"
            )
        if version is None:
            return states
        found = [state for state in states if state.version == version]
        if not found:
            known = ", ".join(str(state.version) for state in states[::-1])
            raise ModelNotFoundError(
                f"Could not find version {version} of model {name}; it has {known}"
            )
        return found

    def metadata(self, target: Target) -> ModelVersion:
        """Return a version's manifest, labels and directory.

        Raises:
            ModelNotFoundError: the repository has no such model, version or label.
            ModelUnavailableError: the version was refused or is not loaded.
        """
        return self._find(target).source

    async def predict(
        self,
        target: Target,
        inputs: Mapping[str, NDArray[Any]],
        *,
        outputs: Sequence[str] = (),
        deadline: float | None = None,
        priority: int = 0,
    ) -> Prediction:
        """Run the graph on pixels, and return the requested outputs.

        Args:
            target: the version.
            inputs: the only input of the graph, `images`: integers from 0 to 255, [N, H, W, C].
            outputs: the names of the requested outputs; if empty, all.
            deadline: the value of `time.monotonic()` after which the client needs no answer.
            priority: requests with priority 1 run first, and those with 0, the default, last.

        Raises:
            ModelNotFoundError, ModelUnavailableError: as for `metadata`.
            InvalidInputError: a name, a type, a shape or a value does not fit the graph.
            QueueFullError: the queue or the memory budget is full.
            InputTooLargeError: the pixels need more memory than one request can have.
            DeadlineExceededError: the deadline has passed.
        """
        servable = self._find(target)
        manifest = servable.source.manifest
        bytes_to_convert = sum(each.nbytes for each in inputs.values() if each.dtype != np.uint8)
        if bytes_to_convert < INLINE_BYTES:
            images = check_images(manifest, inputs)
        else:
            images = await PARSING.call(deadline, check_images, manifest, inputs)
        check_outputs(servable.source.manifest, outputs)
        # Without a conversion, the array is a view of the body, whose memory is already claimed.
        memory = 0 if images is inputs[servable.source.manifest.input.name] else images.nbytes
        return await self._answer(target, servable, images, (), outputs, deadline, priority, memory)

    async def predict_bytes(
        self,
        target: Target,
        contents: Sequence[bytes],
        *,
        outputs: Sequence[str] = (),
        deadline: float | None = None,
        priority: int = 0,
    ) -> Prediction:
        """Decode images, preprocess them as `model.json` specifies, and run the graph.

        Raises:
            UnsupportedImageError, DamagedImageError, ImageTooLargeError: an image cannot be
                decoded; if there are several images, the message begins with the image's number.
            InputTooLargeError: there are more than `inputs.MAX_IMAGES` images, or their pixels need
                more memory than one request can have.
            Also the errors of `predict`.
        """
        servable = self._find(target)
        check_contents(servable.source.manifest, contents)
        check_outputs(servable.source.manifest, outputs)
        memory = len(contents) * pixel_bytes(servable.source.manifest)
        return await self._answer(
            target, servable, None, contents, outputs, deadline, priority, memory
        )

    async def classify_images(
        self,
        target: Target,
        contents: Sequence[bytes],
        top_k: int = 5,
        *,
        deadline: float | None = None,
    ) -> list[list[ScoredLabel]]:
        """Return the `top_k` most probable labels of each encoded image, in descending order.

        Raises:
            InvalidInputError: `top_k` is below 1, or there is no image.
            Also the errors of `predict_bytes`.
        """
        if top_k < 1:
            raise InvalidInputError(f"top_k must be at least 1, not {top_k}")
        prediction = await self.predict_bytes(
            target, contents, outputs=("probabilities",), deadline=deadline
        )
        return best_labels(prediction, top_k)

    async def draw_activation_map(
        self,
        prediction: Prediction,
        content: bytes,
        opacity: float = OPACITY,
        *,
        deadline: float | None = None,
    ) -> bytes:
        """Return a PNG of an image, overlaid with the class activation map of its prediction.

        Args:
            prediction: a prediction with the output `cam`.
            content: the encoded image that was predicted.
            opacity: the opacity of the map over the image, 0 to 1.
            deadline: the value of `time.monotonic()` after which the client needs no answer.

        Raises:
            QueueFullError: there is not enough free memory to decode the image again.
            DeadlineExceededError: the deadline has passed.
        """
        preprocessing = prediction.source.manifest.preprocessing

        def draw() -> bytes:
            with self.budget.claim() as claim:
                memory = EncodedImage(content, preprocessing, PILLOW_MAX_PIXELS).memory
                claim.add(memory, MEMORY_SECONDS)
                return overlay(content, prediction.outputs["cam"][0], preprocessing, opacity)

        return await _DRAWING.call(deadline, draw)

    async def _answer(
        self,
        target: Target,
        servable: Servable,
        images: NDArray[np.uint8] | None,
        contents: Sequence[bytes],
        outputs: Sequence[str],
        deadline: float | None,
        priority: int,
        memory: int,
    ) -> Prediction:
        """Run a request, and hold a claim of `memory` bytes for its pixels until it is answered."""
        queued = time.monotonic()
        recorder = servable.recorder
        claim = Claim(self.budget)
        try:
            claim.add(memory)
            while True:
                job = Job(images, contents, outputs, deadline, priority)
                try:
                    answer = await servable.batcher.answer(job)
                    break
                except ClosedError:  # the version was retired after `_find`
                    servable = self._find(target)
                    recorder = servable.recorder
                    _check(servable, images, contents, outputs)  # with the new graph
        except asyncio.CancelledError:
            job.future.cancel()
            recorder.record_failure("CANCELLED", time.monotonic() - queued)
            raise
        except Exception as error:
            recorder.record_failure(code_name(error), time.monotonic() - queued)
            raise
        finally:
            claim.release()
        seconds = time.monotonic() - queued
        recorder.record_success(seconds, answer.queue, answer.decode, answer.compute)
        timing = Timing(answer.queue, answer.decode, answer.compute)
        return Prediction(servable.source, answer.outputs, timing)

    def _find(self, target: Target) -> Servable:
        model = self.manager.models.get(target.name)
        if model is not None:
            if target.version is None and target.label is None:
                return model.newest
            version = self._labelled(target) if target.version is None else target.version
            if version in model.versions:
                return model.versions[version]
        if target.label is not None:
            version = self._labelled(target)
            try:
                self._explain(replace(target, version=version, label=None))
            except ServeError as error:
                raise type(error)(
                    f"the label {target.label} of {target.name} refers to version {version}: "
                    f"{error}"
                ) from error
        self._explain(target)

    def _labelled(self, target: Target) -> int:
        model = self.manager.models.get(target.name)
        labels = {} if model is None else model.labels
        if target.label is None or target.label not in labels:
            known = f"; it has {', '.join(labels)}" if labels else ""
            raise InvalidInputError(
                f"Unrecognized servable version label: {target.label} of {target.name}{known}"
            )
        return labels[target.label]

    def _explain(self, target: Target) -> NoReturn:
        """Raise the error that explains why no version can answer."""
        name, version = target.name, target.version
        states = {state.version: state for state in self.manager.states(name)}
        served = self.manager.models.get(name)
        if version is None and served is None:
            refused = next((s for s in states.values() if s.message), None)
        else:
            refused = states.get(version or 0)
        if refused is not None and refused.message:
            raise ModelUnavailableError(f"{name}/{refused.version} refused: {refused.message}")
        if refused is not None and refused.state != State.AVAILABLE:
            raise ModelUnavailableError(
                f"{name}/{refused.version} is not served: its state is {refused.state}"
            )
        if served is None and self.manager.reason(name):
            raise ModelUnavailableError(f"{name} is not served: {self.manager.reason(name)}")
        if served is None:
            raise ModelNotFoundError(
                f"Servable not found for request: Latest({name}); {self._known(name)}"
            )
        raise ModelNotFoundError(
            f"Servable not found for request: Specific({name}, {version}); it has "
            + ", ".join(map(str, served.versions))
        )

    def _known(self, name: str) -> str:
        reason = self.manager.reason(name)
        names = ", ".join(self.manager.models)
        return reason or (f"the models are {names}" if names else "no model is served")


def _check(
    servable: Servable,
    images: NDArray[np.uint8] | None,
    contents: Sequence[bytes],
    outputs: Sequence[str],
) -> None:
    manifest = servable.source.manifest
    if images is None:
        check_contents(manifest, contents)
    else:
        check_images(manifest, {manifest.input.name: images})
    check_outputs(manifest, outputs)


def _labelled_files(config: ServerConfig) -> object:
    """Return the state of the files of all versions to which labels refer."""
    return [
        fingerprint(model.base_path / str(version))
        for model in config.models
        for version in model.labels.values()
    ]
