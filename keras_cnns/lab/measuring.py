"""Measure one seed of an experiment, and keep the measurements in a cache."""

import ast
import hashlib
import inspect
import json
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import ModuleType

import keras

from keras_cnns.files import write_text
from keras_cnns.keras_internals import clear_session
from keras_cnns.lab import networks, surfaces
from keras_cnns.lab.experiment import Experiment, Measurements, Report, Settings

_CACHE = "measurements"
_PACKAGES = ("keras", "tensorflow", "numpy", "keras-cnns")
_SHARED = (networks, surfaces)  # modules on which the measurements of several experiments depend


def read_measurements(
    folder: Path, experiment: Experiment, settings: Settings, seed: int
) -> Measurements | None:
    """Return the cached measurements of one seed, or None if they have to be measured."""
    path = _cache_path(folder, experiment, settings, seed)
    if not path.exists():
        return None
    content: Measurements = json.loads(path.read_text("utf-8"))["measurements"]
    return content


def cache_key(experiment: Experiment, settings: Settings, seed: int) -> str:
    """Return a hash of everything that determines the measurements of one seed.

    The hash covers the settings, the seed, the backend, the versions of the packages, and the code
    that measures, both in the experiment's file and in the modules that experiments share.
    """
    content = {
        "source": [_source(experiment), *(ast.unparse(_parse(each)) for each in _SHARED)],
        "settings": asdict(settings),
        "seed": seed,
        "backend": keras.backend.backend(),
        "versions": _versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def measure(
    folder: Path, experiment: Experiment, settings: Settings, seed: int, report: Report
) -> float:
    """Run one seed, write its measurements into the cache, and return its duration in seconds.

    Raises:
        OSError: the folder cannot be written.
        ValueError: the images cannot be read.
    """
    # The path contains a hash of the sources. It is computed before the run, because the sources
    # may be edited during the run.
    path = _cache_path(folder, experiment, settings, seed)
    clear_session()
    keras.utils.set_random_seed(seed)
    start = time.monotonic()
    report(0.0, "start")
    measurements = experiment.run(seed, settings, report)
    seconds = time.monotonic() - start
    content = {
        "experiment": experiment.name,
        "seed": seed,
        "settings": asdict(settings),
        "versions": _versions(),
        "seconds": round(seconds, 1),
        "measurements": measurements,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content))
    return seconds


def _cache_path(folder: Path, experiment: Experiment, settings: Settings, seed: int) -> Path:
    return (
        folder / _CACHE / f"{experiment.name}-{seed}-{cache_key(experiment, settings, seed)}.json"
    )


def _source(experiment: Experiment) -> dict[str, str]:
    """Return the code of `run` and of everything that it uses in its file, as name -> code.

    The code has no comments and docstrings. Texts, figures and smallest effects are not included,
    so that cached measurements stay valid if one of them is edited.
    """
    module = _parse(sys.modules[experiment.run.__module__])
    defined = {name: node for node in module.body for name in _defined_names(node)}
    used: dict[str, str] = {}
    waiting = [experiment.run.__name__]
    while waiting:
        name = waiting.pop()
        if name in defined and name not in used:
            used[name] = ast.unparse(defined[name])
            waiting += [each.id for each in ast.walk(defined[name]) if isinstance(each, ast.Name)]
    return used


def _parse(module: ModuleType) -> ast.Module:
    """Return the syntax tree of a module, without docstrings. A syntax tree has no comments."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            code = [each for each in node.body if not _is_text(each)]
            node.body = code or [ast.Pass()]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _defined_names(statement: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [each.asname or each.name for each in statement.names]
    return [
        each.id
        for each in ast.walk(statement)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    ]


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _PACKAGES}
