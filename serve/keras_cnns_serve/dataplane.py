"""The core of the server: models, status, metadata, predict, classify. It knows no protocol.

Every protocol translates to these calls and translates the errors back (`errors.py`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Engine, OnnxRuntimeEngine
from .errors import (
    InvalidInputError,
    ModelNotFoundError,
    ModelUnavailableError,
    RepositoryError,
    ServeError,
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
    reason: str  # empty for a version that answers


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
    def load(cls, root: Path, *, threads: int = 1, max_pixels: int = MAX_PIXELS) -> "Dataplane":
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

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """The state of a model's versions, the newest first; of one, if `version` is given.

        Raises:
            ModelNotFoundError: the repository has no such model or version.
        """
        states = [VersionStatus(number, "") for number in self._servables.get(name, ())]
        states += [
            VersionStatus(refusal.version, refusal.reason)
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

    def metadata(self, name: str, version: int | None = None) -> ModelVersion:
        """All that is known of a version, by default of the highest that answers.

        Raises:
            ModelNotFoundError: the repository has no such model or version.
            ModelUnavailableError: it was refused.
        """
        return self._find(name, version).source

    def predict(
        self, name: str, inputs: Mapping[str, NDArray[Any]], version: int | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Runs the graph: `{"images": integers 0 to 255 [N, H, W, C]}` to its named outputs.

        Raises:
            ModelNotFoundError: the repository has no such model or version.
            ModelUnavailableError: it was refused.
            InvalidInputError: a name, a type, a shape or a value is not what the graph takes.
        """
        servable = self._find(name, version)
        return servable.engine.run(_check_images(servable.source.manifest, inputs))

    def classify_images(
        self, name: str, contents: Sequence[bytes], top_k: int = 5, version: int | None = None
    ) -> list[list[ScoredLabel]]:
        """The `top_k` likeliest labels of each encoded image, the likeliest first.

        Raises:
            ModelNotFoundError: the repository has no such model or version.
            ModelUnavailableError: it was refused.
            InvalidInputError: `top_k` is below 1, or there is no image.
            UnsupportedImageError, DamagedImageError, ImageTooLargeError: an image cannot be
                taken; with several, the message begins with its number.
        """
        servable = self._find(name, version)
        if top_k < 1:
            raise InvalidInputError(f"top_k must be at least 1, not {top_k}")
        if not contents:
            raise InvalidInputError("there is no image to classify")
        images = np.stack(list(self._read_images(contents, servable.source.manifest)))
        labels = servable.source.labels
        return [
            [ScoredLabel(labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top_k]]
            for row in servable.engine.run(images)["probabilities"]
        ]

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

    def _find(self, name: str, version: int | None) -> Servable:
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
