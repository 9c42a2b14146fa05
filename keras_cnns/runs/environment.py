"""Describe the environment of a run: versions, machine, git commit, data, seed."""

import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from keras_cnns.recipes import Recipe

_PACKAGES = {  # name in environment.json -> module
    "keras-cnns": "keras_cnns",
    "keras": "keras",
    "tensorflow": "tensorflow",
    "tensorflow-datasets": "tensorflow_datasets",
    "numpy": "numpy",
}


def describe_environment(recipe: Recipe, data_fingerprint: str) -> dict[str, Any]:
    """Return the environment of a run as values for JSON.

    A package that is not installed has the version None.

    Args:
        recipe: the run's recipe, whose seed is recorded.
        data_fingerprint: a hash of the data set, or its name and version.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": keras.backend.backend(),
        "packages": {name: _find_version(name, module) for name, module in _PACKAGES.items()},
        "git": describe_checkout(Path(__file__).parent),
        "data_fingerprint": data_fingerprint,
        "seed": recipe.training.seed,
        "process": {"id": os.getpid(), "host": socket.gethostname()},
    }


def _find_version(name: str, module: str) -> str | None:
    """Return the version of an installed package; None if it is not installed.

    Args:
        name: the usual name of its distribution.
        module: the module that it installs. Other distributions that install the same module are
            found too: `tensorflow-cpu` and `tf-nightly` also install `tensorflow`.
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        if version := getattr(sys.modules.get(module), "__version__", None):
            return str(version)
        others = metadata.packages_distributions().get(module, ())
        return next((metadata.version(other) for other in others), None)


def describe_checkout(folder: Path) -> dict[str, Any]:
    """Return the git `commit` of a folder, and whether it `has_changes`; None without git.

    Both are None for files that git ignores, such as a package installed inside a project.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return process.stdout.strip()

    try:
        if git("ls-files", "."):
            changes = git("status", "--porcelain", "--untracked-files=no")
            return {"commit": git("rev-parse", "HEAD"), "has_changes": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        pass
    return {"commit": None, "has_changes": None}
