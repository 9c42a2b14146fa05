"""The option `--offline`, which every command that may download weights has."""

import os
from typing import Annotated

import typer


def _disable_downloads(offline: bool) -> bool:
    if offline:
        os.environ["KERAS_CNNS_OFFLINE"] = "1"
    return offline


Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        callback=_disable_downloads,
        help="Download no weights, as with KERAS_CNNS_OFFLINE=1: they must be in the cache.",
    ),
]
