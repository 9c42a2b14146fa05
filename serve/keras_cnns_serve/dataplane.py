"""The core of the server: models, status, metadata, predict, classify. It knows no protocol.

Every protocol translates to these calls and translates the errors back (`errors.py`).
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ServerConfig
from .engine import Engine, OnnxRuntimeEngine
from .errors import (
    InvalidInputError,
    ModelNotFoundError,
    ModelUnavailableError,
    RepositoryError,
    ServeError,
    UnimplementedError,
    VersionRefusedError,
)
from .images import MAX_PIXELS, read_image
from .manifest import Manifest, Tensor
from .repository import ModelVersion, Refusal, open_repository

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Servable:
    """A version that answers requests."""

    source: ModelVersion
    engine: Engine


@dataclass(frozen=True)
class Target:
    """Which version of which model; at most one of version and label, and neither is the newest."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class Timing:
    """Where a request's time went, in seconds."""

    queue: float = 0.0
    decode: float = 0.0
    compute: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """An answer, with who gave it and how long it took."""

    source: ModelVersion
    outputs: dict[str, NDArray[Any]]  # each [N, ...]
    timing: Timing


class State(StrEnum):
    """TensorFlow Serving's states of a version."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True)
class ModelSummary:
    """One line of the list of models."""

    name: str
    versions: tuple[int, ...]  # those that answer, ascending; the last is the default
    input: Tensor  # of the default version
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class VersionStatus:
    """Whether a version answers, and if not, why."""

    version: int
    state: State
    code: str = "OK"  # of google.rpc.Code
    message: str = ""


@dataclass(frozen=True)
class IndexEntry:
    """A model's version, served or not; a model without any has None."""

    name: str
    version: int | None
    state: State
    reason: str  # empty for a version that answers


@dataclass(frozen=True)
class Total:
    """How often, and how many seconds in all."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Statistics:
    """What a version has done since it was loaded."""

    name: str
    version: int
    last_inference: float = 0.0  # seconds since the epoch; 0: none yet
    inferences: int = 0  # images
    executions: int = 0  # batches
    success: Total = Total()  # requests
    fail: Total = Total()
    queue: Total = Total()
    decode: Total = Total()
    compute: Total = Total()
    batches: Mapping[int, Total] = field(default_factory=dict)  # by size


@dataclass(frozen=True)
class ScoredLabel:
    """A label with its probability, 0 to 1."""

    label: str
    probability: float


class Dataplane:
    """Models that were loaded, and the questions one can ask them. Safe for many threads.

    Args:
        servables: the versions that answer.
        refusals: the versions that were refused, with their reasons.
        max_pixels: the largest image that is decoded.
    """

    def __init__(
        self,
        servables: Sequence[Servable],
        refusals: Sequence[Refusal] = (),
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._servables: dict[str, dict[int, Servable]] = {}
        for servable in sorted(servables, key=lambda s: (s.source.name, s.source.version)):
            versions = self._servables.setdefault(servable.source.name, {})
            versions[servable.source.version] = servable
        self._refusals = tuple(refusals)
        self._max_pixels = max_pixels

    @classmethod
    def open(cls, root: Path, *, threads: int = 1, max_pixels: int = MAX_PIXELS) -> "Dataplane":
        """Loads every good version below a directory, and logs every other one with its reason.

        Args:
            root: a model repository, or the directory of one model.
            threads: how many threads ONNX Runtime uses for one prediction.
            max_pixels: the largest image that is decoded.

        Raises:
            RepositoryError: there is no such directory, or nothing in it can be served.
        """
        repository = open_repository(root)
        refusals = list(repository.refusals)
        servables = []
        for source in repository.versions:
            path = source.directory / source.manifest.onnx
            try:
                engine = OnnxRuntimeEngine(path, source.manifest, threads)
                servables.append(Servable(source, engine))
            except VersionRefusedError as refused:
                refusals.append(Refusal(source.name, source.version, str(refused)))
        if not servables:
            reasons = "".join(f"\n{refusal}" for refusal in refusals)
            raise RepositoryError(
                f"{root} holds no model that can be served"
                + (reasons or "; an exporter puts one there, as models/digits/1/model.json")
            )
        for refusal in refusals:
            logger.warning("%s", refusal)
        return cls(servables, refusals, max_pixels)

    def models(self) -> list[ModelSummary]:
        """The models that answer, by name."""
        return [_summary(name, versions) for name, versions in self._servables.items()]

    def index(self) -> list[IndexEntry]:
        """Every known model and version, with its state and the reason of a refusal."""
        entries = [
            IndexEntry(name, version, State.AVAILABLE, "")
            for name, versions in self._servables.items()
            for version in versions
        ]
        entries += [IndexEntry(r.name, r.version, State.END, r.reason) for r in self._refusals]
        return sorted(entries, key=lambda entry: (entry.name, entry.version or 0))

    def ready(self, target: Target | None = None) -> bool:
        """Whether a version, or the server as a whole, answers."""
        try:
            return target is None or self._find(target) is not None
        except ServeError:
            return False

    async def load(self, name: str) -> None:
        """Loads a model again, or for the first time.

        Raises:
            ModelNotFoundError: the repository has no such model.
            ModelUnavailableError: it cannot be loaded.
        """
        raise UnimplementedError("load")

    async def unload(self, name: str) -> None:
        """Stops serving a model until it is loaded again.

        Raises:
            ModelNotFoundError: the repository has no such model.
        """
        raise UnimplementedError("unload")

    async def reload_config(self, config: ServerConfig) -> None:
        """Serves other models from now on.

        Raises:
            ConfigError: the configuration is wrong; the old one goes on.
        """
        raise UnimplementedError("reload_config")

    def statistics(self, target: Target) -> list[Statistics]:
        """What the versions of a model have done; of one version, if the target has one.

        Raises:
            ModelNotFoundError, ModelUnavailableError: as for `metadata`.
        """
        if target.version is None and target.label is None:
            sources = [s.source for s in self._servables.get(target.name, {}).values()]
        else:
            sources = [self._find(target).source]
        return [Statistics(source.name, source.version) for source in sources]

    def status(self, target: Target) -> list[VersionStatus]:
        """The state of a model's versions, the newest first; of one, if the target has one.

        Raises:
            ModelNotFoundError: the repository has no such model or version.
        """
        name, version = target.name, target.version
        states = [
            VersionStatus(number, State.AVAILABLE) for number in self._servables.get(name, ())
        ]
        states += [
            VersionStatus(refusal.version, State.END, "FAILED_PRECONDITION", refusal.reason)
            for refusal in self._refusals
            if refusal.name == name and refusal.version is not None
        ]
        if version is not None:
            found = [state for state in states if state.version == version]
            if states and not found:
                known = ", ".join(str(number) for number in sorted(s.version for s in states))
                raise ModelNotFoundError(
                    f"Could not find version {version} of model {name}; it has {known}"
                )
            states = found
        if not states:
            raise ModelNotFoundError(
                f"Could not find any versions of model {name}; {self._known()}"
            )
        return sorted(states, key=lambda state: -state.version)

    def metadata(self, target: Target) -> ModelVersion:
        """All that is known of a version.

        Raises:
            ModelNotFoundError: the repository has no such model, version or label.
            ModelUnavailableError: it was refused.
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
        """Runs the graph: `{"images": integers 0 to 255 [N, H, W, C]}` to its named outputs.

        Args:
            target: which version.
            inputs: the graph's one input.
            outputs: the names of those wanted; all, if empty.
            deadline: `time.monotonic()` after which no answer is wanted.
            priority: of those that wait the lowest is first; 0 stands for the default.

        Raises:
            ModelNotFoundError, ModelUnavailableError: as for `metadata`.
            InvalidInputError: a name, a type, a shape or a value is not what the graph takes.
            QueueFullError: too many wait.
            DeadlineExceededError: the deadline has passed.
        """
        servable = self._find(target)
        images = _check_images(servable.source.manifest, inputs)
        _check_outputs(servable.source.manifest, outputs)
        started = time.monotonic()
        answer = await asyncio.to_thread(servable.engine.run, images)
        timing = Timing(compute=time.monotonic() - started)
        return Prediction(
            servable.source, {name: answer[name] for name in outputs or answer}, timing
        )

    async def predict_bytes(
        self,
        target: Target,
        contents: Sequence[bytes],
        *,
        outputs: Sequence[str] = (),
        deadline: float | None = None,
        priority: int = 0,
    ) -> Prediction:
        """Decodes images, preprocesses them as `model.json` says, and runs the graph.

        Raises:
            UnsupportedImageError, DamagedImageError, ImageTooLargeError: an image cannot be
                taken; with several, the message begins with its number.
            As for `predict`.
        """
        servable = self._find(target)
        _check_outputs(servable.source.manifest, outputs)
        if not contents:
            raise InvalidInputError("there is no image to classify")

        def run() -> Prediction:
            started = time.monotonic()
            images = np.stack(list(self._read_images(contents, servable.source.manifest)))
            decoded = time.monotonic()
            answer = servable.engine.run(images)
            timing = Timing(0, decoded - started, time.monotonic() - decoded)
            return Prediction(
                servable.source, {name: answer[name] for name in outputs or answer}, timing
            )

        return await asyncio.to_thread(run)

    async def classify_images(
        self,
        target: Target,
        contents: Sequence[bytes],
        top_k: int = 5,
        *,
        deadline: float | None = None,
    ) -> list[list[ScoredLabel]]:
        """The `top_k` likeliest labels of each encoded image, the likeliest first.

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

    def _read_images(
        self, contents: Sequence[bytes], manifest: Manifest
    ) -> Iterator[NDArray[np.uint8]]:
        for number, content in enumerate(contents, start=1):
            try:
                yield read_image(content, manifest.preprocessing, self._max_pixels)
            except ServeError as error:
                if len(contents) == 1:
                    raise
                raise type(error)(f"image {number} of {len(contents)}: {error}") from error

    def _find(self, target: Target) -> Servable:
        name, version = target.name, target.version
        if target.label is not None:
            raise ModelNotFoundError(f"Unrecognized servable version label: {target.label}")
        versions = self._servables.get(name, {})
        if version is None and versions:
            return versions[max(versions)]
        if version in versions:
            return versions[version]
        for refusal in self._refusals:
            known = refusal.name == name and refusal.version is not None
            if known and version in (None, refusal.version):
                raise ModelUnavailableError(str(refusal))
        if not versions:
            raise ModelNotFoundError(
                f"Servable not found for request: Latest({name}); {self._known()}"
            )
        raise ModelNotFoundError(
            f"Servable not found for request: Specific({name}, {version}); it has "
            + ", ".join(map(str, versions))
        )

    def _known(self) -> str:
        return f"here are {', '.join(self._servables)}"


def _summary(name: str, versions: Mapping[int, Servable]) -> ModelSummary:
    newest = versions[max(versions)].source
    return ModelSummary(
        name, tuple(versions), newest.manifest.input, newest.manifest.outputs, newest.labels
    )


def best_labels(prediction: Prediction, top_k: int) -> list[list[ScoredLabel]]:
    """The `top_k` likeliest labels of each row of `probabilities`, the likeliest first."""
    labels = prediction.source.labels
    return [
        [ScoredLabel(labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top_k]]
        for row in prediction.outputs["probabilities"]
    ]


def _check_outputs(manifest: Manifest, names: Sequence[str]) -> None:
    known = [output.name for output in manifest.outputs]
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"there is no output {name!r:.80}; there are {', '.join(known)}"
            )


def _check_images(manifest: Manifest, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    expected = manifest.input
    wanted = f"{expected.name} takes integers from 0 to 255 of shape {shape_text(expected)}"
    if set(inputs) != {expected.name}:
        given = ", ".join(sorted(inputs)) or "nothing"
        raise InvalidInputError(f"the input must be {expected.name} alone, not {given}; {wanted}")
    images = inputs[expected.name]
    if images.shape[1:] != expected.shape[1:] or images.ndim != len(expected.shape):
        hint = "; put one image in a list" if images.shape == expected.shape[1:] else ""
        raise InvalidInputError(f"{wanted}, not of shape {list(images.shape)}{hint}")
    if not len(images):
        raise InvalidInputError(f"{wanted}, and N must be at least 1")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind == "f":
        fractions = images[images != np.round(images)]
        example = fractions[0] if len(fractions) else images.flat[0]
        raise InvalidInputError(f"{wanted}, not {example}; the graph itself normalises them")
    if images.dtype.kind not in "iu":
        texts = [str(value) for value in images.flat]
        example = next((text for text in texts if not text.isdigit() or len(text) > 3), texts[0])
        raise InvalidInputError(f"{wanted}, not {example!r:.40}")
    for extreme in (images.min(), images.max()):
        if not 0 <= extreme <= 255:
            raise InvalidInputError(f"{wanted}, not {extreme}")
    return images.astype(np.uint8)


def shape_text(tensor: Tensor) -> str:
    """The shape as people write it: `[N, 32, 32, 1]`."""
    return f"[{', '.join('N' if size is None else str(size) for size in tensor.shape)}]"
