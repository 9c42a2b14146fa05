"""Read the configuration of models: TensorFlow Serving's `model_config_list` as text, or TOML.

[models.digits]
path = "models/digits"                 # relative to the file
versions = "latest:2"                  # or "all", or [3, 4]
labels = { stable = 3, canary = 4 }
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from keras_cnns_serve.errors import ConfigError

from .policy import Latest, Specific, VersionPolicy, parse_policy
from .text_files import read_text

_KEYS = ("path", "versions", "labels")


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of one model."""

    name: str
    base_path: Path  # the directory that holds its versions
    policy: VersionPolicy = Latest()  # noqa: RUF009 - frozen
    labels: Mapping[str, int] = field(default_factory=dict)  # such as {"stable": 3, "canary": 4}


@dataclass(frozen=True)
class ServerConfig:
    """The models of a server: the listed models, and the models found in a directory."""

    models: tuple[ModelConfig, ...] = ()
    root: Path | None = None
    # The policy for the models in `root`.
    policy: VersionPolicy = Latest()  # noqa: RUF009 - frozen


def read_config(path: Path) -> ServerConfig:
    """Read a configuration of models: TOML if the name ends in .toml, `model_config_list` if not.

    Raises:
        ConfigError: the file cannot be read or is wrong; the message names the file and the entry.
    """
    try:
        content = read_text(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {reason}") from error
    config = _toml(path, content) if path.suffix == ".toml" else _text(path, content)
    if not config.models:
        raise ConfigError(f"{path} lists no model")
    return config


class ConfigFile:
    """A configuration file that may change while the server runs.

    Args:
        path: the path of the file.

    Raises:
        ConfigError: as for `read_config`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._content()
        self.config = read_config(path)

    def changed(self) -> ServerConfig | None:
        """Return the configuration if the file has changed since the last call, or else None.

        Raises:
            ConfigError: the new content is wrong; this is raised only once for the same content.
        """
        content = self._content()
        # A missing file changes nothing, because another program may be replacing it right now.
        if content is None or content == self._seen:
            return None
        self._seen = content
        self.config = read_config(self._path)
        return self.config

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None


def from_proto(message: Any, relative_to: Path = Path()) -> ServerConfig:
    """Return the configuration in a ModelServerConfig message of TensorFlow Serving.

    Raises:
        ConfigError: the name or path of a model is missing, its platform or policy is wrong, or
            it is listed twice.
    """
    models: list[ModelConfig] = []
    for entry in message.model_config_list.config:
        if not entry.name or not entry.base_path:
            raise ConfigError(f"a model has no name or no base_path: {str(entry)!r:.200}")
        if entry.model_platform not in ("", "tensorflow"):
            raise ConfigError(
                f"{entry.name}: the model_platform must be 'tensorflow', not "
                f"{entry.model_platform!r}"
            )
        policy = _policy_of_proto(entry.name, entry.model_version_policy)
        path = _local(entry.name, entry.base_path, relative_to)
        models.append(ModelConfig(entry.name, path, policy, dict(entry.version_labels)))
    return _unique(models)


def _policy_of_proto(name: str, policy: Any) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return parse_policy("all")
        case "specific":
            if not policy.specific.versions:
                raise ConfigError(f"{name}: the policy 'specific' lists no version")
            return Specific(frozenset(policy.specific.versions))
        case "latest":
            return Latest(policy.latest.num_versions or 1)
    return Latest()


def _text(path: Path, content: str) -> ServerConfig:
    from google.protobuf import text_format

    from keras_cnns_serve.protos import tensorflow_serving

    message = tensorflow_serving.ModelServerConfig()
    try:
        # Other fields of TensorFlow Serving, such as logging, are ignored.
        text_format.Parse(content, message, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ConfigError(f"Invalid protobuf file: '{path}': {error}") from error
    return from_proto(message, path.parent)


def _toml(path: Path, content: str) -> ServerConfig:
    try:
        document = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    _check_keys(str(path), document, ("models",))
    tables = document.get("models", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: models must contain tables, such as [models.digits]")
    return _unique([_model(path, name, table) for name, table in tables.items()])


def _model(path: Path, name: str, table: Any) -> ModelConfig:
    where = f"{path}: models.{name}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table")
    _check_keys(where, table, _KEYS)
    if not isinstance(table.get("path"), str):
        raise ConfigError(f"{where} must have a path, the directory of its versions")
    labels = table.get("labels", {})
    if not isinstance(labels, dict) or not all(type(v) is int for v in labels.values()):
        raise ConfigError(f"{where}.labels must map labels to versions, such as {{ stable = 3 }}")
    versions = table.get("versions", "latest:1")
    if isinstance(versions, list) and versions and all(type(v) is int for v in versions):
        versions = ",".join(map(str, versions))
    try:
        policy = parse_policy(versions if isinstance(versions, str) else "")
    except ValueError as error:
        raise ConfigError(f"{where}.versions: {error}") from error
    return ModelConfig(name, _local(where, table["path"], path.parent), policy, labels)


def _local(where: str, path: str, relative_to: Path) -> Path:
    path = path.removeprefix("file://")
    if "\0" in path:
        raise ConfigError(f"{where}: the path {path!r:.200} has a null character")
    if scheme := re.match("[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise ConfigError(
            f"{where}: {path:.200} begins with {scheme[0]}, but only local directories are served; "
            "copy the model into one, for instance with rclone sync"
        )
    return relative_to / path


def _check_keys(where: str, table: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in table:
        if key not in keys:
            near = get_close_matches(key, keys, 1) or keys
            raise ConfigError(
                f"{where} has the unknown key {key!r}; did you mean {' or '.join(near)}?"
            )


def _unique(models: list[ModelConfig]) -> ServerConfig:
    names = [model.name for model in models]
    for name in names:
        if "/" in name or not name.isprintable():
            raise ConfigError(
                f"{name!r:.80} cannot be the name of a model: a name is a part of URLs, so it must "
                "be printable and have no slash"
            )
        if names.count(name) > 1:
            raise ConfigError(f"the model {name!r} is configured twice")
    return ServerConfig(tuple(models))
