"""What a run depended on: code, data, versions, machine, seed."""

import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from keras_cnns.recipes import Recipe

PACKAGES = ("keras-cnns", "keras", "tensorflow", "tensorflow-datasets", "numpy")


def describe_environment(recipe: Recipe, data_fingerprint: str) -> dict[str, Any]:
    """Return what a run depended on, as JSON has it.

    Args:
        recipe: its seed is among it.
        data_fingerprint: what tells one state of the data from another.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": keras.backend.backend(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git": describe_checkout(Path(__file__).parent),
        "data_fingerprint": data_fingerprint,
        "seed": recipe.training.seed,
        "process": {"id": os.getpid(), "host": socket.gethostname()},
    }


def describe_checkout(folder: Path) -> dict[str, Any]:
    """Return the git `commit` of a folder's files, and whether it `has_changes`; None: no git.

    A folder whose files are ignored, as of a package installed inside of a project, has none.
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
