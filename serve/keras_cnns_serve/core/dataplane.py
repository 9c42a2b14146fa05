"""The core of the server: models, status, metadata, predict, classify. It knows no protocol.

Every protocol translates to these calls and translates the errors back (`errors.py`).
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
from keras_cnns_serve.repository.files import ModelVersion
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
    """One line of the list of models."""

    name: str
    versions: tuple[int, ...]  # those that answer, ascending; the last is the default
    input: Tensor  # of the default version
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...]
    engine: Mapping[str, str | int]  # what runs the default version, as `engine_info` returns it


@dataclass(frozen=True)
class IndexEntry:
    """A model's version, served or not; a model without any has None."""

    name: str
    version: int | None
    state: State
    reason: str  # empty for a version that answers


class Dataplane:
    """Models that are served, and the questions one can ask them.

    Args:
        config: what is to be served.
        options: how.

    Raises:
        RepositoryError: there is no such directory.
    """

    def __init__(self, config: ServerConfig, options: Options | None = None) -> None:
        options = options or Options()
        self.manager: Manager[Servable] = Manager(config, partial(start_servable, options=options))
        self.budget = options.budget  # of the memory that clients hold, here and in the transports
        self._admin = options.admin
        self._changes = AdminThread()
        self._watcher: Watcher | None = None
        self.draining = False  # the server stops: nobody should send new requests
        self._end: float | None = None  # when it must have stopped, by time.monotonic()
        self.manager.sync()

    @classmethod
    def open(
        cls, root: Path, *, policy: VersionPolicy | None = None, options: Options | None = None
    ) -> "Dataplane":
        """Serve a model repository, or the directory of one model.

        Raises:
            RepositoryError: there is no such directory, or nothing in it can be served.
        """
        dataplane = cls(ServerConfig(root=root, policy=policy or Latest()), options)
        dataplane.demand_a_model(str(root))
        return dataplane

    def demand_a_model(self, place: str) -> None:
        """Raise an error if there is nothing to serve.

        Raises:
            RepositoryError: no model answers; the message has every reason.
        """
        if not self.manager.models:
            reasons = "".join(f"\n{line}" for line in self.manager.refusals())
            raise RepositoryError(
                f"{place} holds no model that can be served"
                + (reasons or "; an exporter puts one there, as models/digits/1/model.json")
            )

    def watch(
        self, seconds: float, changed: Callable[[], ServerConfig | None] = lambda: None
    ) -> None:
        """Look for new versions from now on, until `close`.

        Args:
            seconds: The interval; 0 for never.
            changed: Returns another configuration, if there is one.
        """

        def look() -> None:
            config = changed()
            if config is None:
                self.manager.sync()
            else:
                self.manager.reconfigure(config)

        if seconds:
            self._watcher = Watcher(look, seconds)
            self._watcher.start()

    def stop(self, seconds: float | None = None) -> None:
        """Report that the server is not ready; go on answering, for at most `seconds`."""
        self.draining = True
        if self._end is None and seconds is not None:
            self._end = time.monotonic() + seconds

    def close(self, seconds: float | None = None) -> None:
        """Finish the requests in flight and end the threads, at most `seconds` after `stop`."""
        self.stop(seconds)
        self._changes.close()
        if self._watcher is not None:
            self._watcher.stop(self._remaining())
        self.manager.close(self._remaining())

    def _remaining(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def models(self) -> list[ModelSummary]:
        """Return the models that answer, by name."""
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
        """Return every known model and version, with its state and the reason of a refusal."""
        entries = []
        for name in self.manager.names():
            states = self.manager.states(name)
            entries += [IndexEntry(name, s.version, s.state, s.message) for s in states[::-1]]
            if not states:
                entries.append(IndexEntry(name, None, State.END, self.manager.reason(name)))
        return entries

    def ready(self, target: Target | None = None) -> bool:
        """Return whether a version, or the server as a whole, answers."""
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
        """Raise ForbiddenError unless this server takes requests that change what is served."""
        if not self._admin:
            raise ForbiddenError("administration is disabled; start the server with --admin")

    async def load(self, name: str, deadline: float | None = None) -> None:
        """Load a model again, or for the first time.

        Raises:
            DeadlineExceededError: it was not done until the deadline; it may be done later.
            ForbiddenError: this server takes no such request.
            ModelNotFoundError: the repository has no such model.
            ModelUnavailableError: it cannot be loaded.
        """
        await self._change(deadline, partial(self.manager.load, name))

    async def unload(self, name: str, deadline: float | None = None) -> None:
        """Stop serving a model until it is loaded again.

        Raises:
            DeadlineExceededError: it was not done until the deadline; it may be done later.
            ForbiddenError: this server takes no such request.
            ModelNotFoundError: the repository has no such model.
        """
        await self._change(deadline, partial(self.manager.unload, name))

    async def reload_config(self, config: ServerConfig, deadline: float | None = None) -> None:
        """Serve other models from now on.

        Raises:
            DeadlineExceededError: it was not done until the deadline; it may be done later.
            ForbiddenError: this server takes no such request.
            ConfigError: the configuration is wrong; the old one goes on.
        """
        await self._change(deadline, partial(self.manager.reconfigure, config))

    async def _change(self, deadline: float | None, make: Callable[[], None]) -> None:
        self.check_admin()
        await self._changes.call(deadline, make)

    def served(self) -> list[Servable]:
        """Return every version that answers, by model and number, its recorder settled."""
        servables = [
            servable
            for model in self.manager.models.values()
            for servable in model.versions.values()
        ]
        for servable in servables:
            servable.recorder.settle()
        return servables

    def engine_info(self, target: Target) -> dict[str, str | int]:
        """Return the file, engine, precision and threads that run a version, and why.

        Raises:
            ModelNotFoundError, ModelUnavailableError: as for `metadata`.
        """
        return self._find(target).engine_info()

    def statistics(self, target: Target) -> list[Statistics]:
        """Return the statistics of a model's versions; of one, if the target has one.

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
        """Return the state of a model's versions, the newest first; of one, if the target has one.

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
        """Return all that is known of a version.

        Raises:
            ModelNotFoundError: the repository has no such model, version or label.
            ModelUnavailableError: it was refused, or is not loaded.
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
        """Run the graph: `{"images": integers 0 to 255 [N, H, W, C]}` to its named outputs.

        Args:
            target: which version.
            inputs: the graph's one input.
            outputs: the names of those wanted; all, if empty.
            deadline: `time.monotonic()` after which no answer is wanted.
            priority: from 1, the first of those that wait; 0, for none, is the last.

        Raises:
            ModelNotFoundError, ModelUnavailableError: as for `metadata`.
            InvalidInputError: a name, a type, a shape or a value is not what the graph takes.
            QueueFullError: too many wait, or their pixels take all memory.
            InputTooLargeError: the pixels take more memory than one request may have.
            DeadlineExceededError: the deadline has passed.
        """
        servable = self._find(target)
        manifest = servable.source.manifest
        to_convert = sum(each.nbytes for each in inputs.values() if each.dtype != np.uint8)
        if to_convert < INLINE_BYTES:
            images = check_images(manifest, inputs)
        else:
            images = await PARSING.call(deadline, check_images, manifest, inputs)
        check_outputs(servable.source.manifest, outputs)
        # An array that came in the body as it is is a part of the body.
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
        """Decode images, preprocess them as `model.json` says, and run the graph.

        Raises:
            UnsupportedImageError, DamagedImageError, ImageTooLargeError: an image cannot be
                taken; with several, the message begins with its number.
            InputTooLargeError: there are more than `inputs.MAX_IMAGES`.
            As for `predict`.
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
        """Return the `top_k` likeliest labels of each encoded image, the likeliest first.

        Raises:
            InvalidInputError: `top_k` is below 1, or there is no image.
            As for `predict_bytes`.
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
        """Return an encoded image as a PNG, overlaid by the class activation map of its prediction.

        Args:
            prediction: It has the output `cam`.
            content: The image that was predicted.
            opacity: Of the map over the image, 0 to 1.
            deadline: `time.monotonic()` after which no answer is wanted.

        Raises:
            QueueFullError: the memory to decode it once more is not free.
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
        """Answer, and hold so many bytes of the budget for the pixels meanwhile."""
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
                except ClosedError:  # it was retired since it was found
                    servable = self._find(target)
                    recorder = servable.recorder
                    _check(servable, images, contents, outputs)  # its graph may be another
        except asyncio.CancelledError:
            job.future.cancel()
            recorder.failed("CANCELLED", time.monotonic() - queued)
            raise
        except Exception as error:
            recorder.failed(code_name(error), time.monotonic() - queued)
            raise
        finally:
            claim.release()
        seconds = time.monotonic() - queued
        recorder.answered(seconds, answer.queue, answer.decode, answer.compute)
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
                    f"the label {target.label} of {target.name} is for version {version}: {error}"
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
        """Raise the error that says why no version answers."""
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
                f"{name}/{refused.version} does not answer: it is {refused.state}"
            )
        if served is None and self.manager.reason(name):
            raise ModelUnavailableError(f"{name} does not answer: {self.manager.reason(name)}")
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
        return reason or f"here are {', '.join(self.manager.models) or 'none'}"


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
