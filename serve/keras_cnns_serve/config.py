"""What is to be served: models with their directories, version policies and labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .policy import Latest, VersionPolicy


@dataclass(frozen=True)
class ModelConfig:
    """One model."""

    name: str
    base_path: Path  # the directory that holds its versions
    policy: VersionPolicy = Latest()  # noqa: RUF009 - it is frozen
    labels: Mapping[str, int] = field(default_factory=dict)  # such as {"stable": 3, "canary": 4}


@dataclass(frozen=True)
class ServerConfig:
    """All models of a server: those listed, and those found in a directory of models."""

    models: tuple[ModelConfig, ...] = ()
    root: Path | None = None
    policy: VersionPolicy = Latest()  # noqa: RUF009 - for the models found in root
