"""A `.keras` file becomes a model, without running what it may carry."""

import os
import zipfile
from pathlib import Path
from typing import Any

from keras_cnns_export.errors import ExportError


def load_model(path: str | os.PathLike[str], *, trust: bool = False) -> Any:
    """Read a `.keras` file in Keras' safe mode; optimizer and loss are left in it.

    Args:
        path: of the file.
        trust: also run the Python code of a Lambda layer in it. Only for a file of your own.

    Raises:
        ExportError: it is no such file, damaged, or carries code.
    """
    import keras

    # A saved net is made of these layers; importing them registers them with Keras' loader.
    from keras_cnns.models.heads import deep_recursion

    path = Path(path)
    if not path.is_file():
        raise ExportError(f"there is no file {path}")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ExportError(f"{path} is no .keras file, as model.save('{path.stem}.keras') writes it")
    try:
        with deep_recursion():
            return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if not trust and ("safe_mode" in reason or "unsafe" in reason):
            raise ExportError(
                f"{path} carries Python code, which loading it would run: if you made it "
                "yourself, give --trust, or trust=True in Python"
            ) from error
        raise ExportError(f"cannot load {path}: {reason[:300]}") from error
