"""Read the formats of an exported version from its `model.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cnns.runs.exported import MANIFEST, find_published
from keras_cnns.runs.run import Run, RunError


@dataclass(frozen=True)
class Published:
    """An exported version of a run's model."""

    path: Path  # the version's directory
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the name under which a server offers the model."""
        return self.path.resolve().parent.name


def read_published(model: Path, run: Run) -> Published:
    """Read the newest version of an exported model, or the version that the path names.

    Args:
        model: `models/NAME` or `models/NAME/VERSION`.
        run: the run that was exported.

    Raises:
        RunError: there is no version, its `model.json` is damaged, or its accuracy differs from the
            run's.
    """
    if not (versions := find_published(model)):
        raise RunError(
            f"{model} is not an exported model: it has no directory 1, 2, ... with a {MANIFEST}; "
            f"`keras-cnns export {run.path} --to {model}` makes one"
        )
    path = versions[-1]
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        metrics, compared = manifest["metrics"] or {}, manifest["parity"]["formats"]
        found = metrics.get("samples"), metrics.get("accuracy")
        dict(compared)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path / MANIFEST} is damaged: {error!r}") from None
    test = run.results()["test"]
    if found != (test["samples"], test["accuracy"]):
        raise RunError(
            f"{path} is not an export of {run.path}: its model.json has an accuracy of {found[1]} "
            f"on {found[0]} images, but the run has {test['accuracy']} on {test['samples']} images"
        )
    return Published(path, manifest)
