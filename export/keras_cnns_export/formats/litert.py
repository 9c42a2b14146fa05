"""LiteRT (.tflite), written by Keras: the format for phones and single-board computers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnns.cores import available_cores
from keras_cnns.quiet import quiet_stderr

if TYPE_CHECKING:
    from keras_cnns_export.batches import Array, Predict
    from keras_cnns_export.graph import Source

_PATH = "model.tflite"
FILES = (_PATH,)


def write(source: Source, version: Path) -> dict[str, Any]:
    """Write `version`/model.tflite with one signature; return its entry in model.json."""
    from keras_cnns_export.graph import export_by_keras

    with _silent():
        export_by_keras(source.graph, version / _PATH, "litert")
    return {"path": _PATH}


def load(version: Path) -> Predict:
    """Load the file in LiteRT on the CPU: images uint8 [N, H, W, C] -> named outputs."""
    from ai_edge_litert.interpreter import Interpreter

    with _silent():
        interpreter = Interpreter(str(version / _PATH), num_threads=available_cores())
        run = interpreter.get_signature_runner()
    (name,) = run.get_input_details()

    def predict(images: Array) -> Mapping[str, Array]:
        return dict(run(**{name: images}))

    return predict


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress the logs of the converter and the interpreter, even if the block fails.

    The exceptions already describe an error; the logs would only add pages of the compiler's
    intermediate representation.
    """
    failures: list[Exception] = []
    with quiet_stderr():
        try:
            yield
        except Exception as error:
            failures.append(error)
    for failure in failures:
        raise failure
