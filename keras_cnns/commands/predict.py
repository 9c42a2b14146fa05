"""`keras-cnns predict`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_cnns.quiet import quiet_stderr


def predict(
    run: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    images: Annotated[list[Path], typer.Argument(help="Image files: JPEG, PNG, WebP, BMP or GIF.")],
    top_k: Annotated[int, typer.Option(min=1, help="Number of labels to print per image.")] = 5,
) -> None:
    """Print the most probable labels of image files and their probabilities."""
    with quiet_stderr():
        from keras_cnns.training import open_run
        from keras_cnns.training import predict as predict_images

    predictions = predict_images(open_run(run), images, top_k=top_k)
    for path, labels in zip(images, predictions, strict=True):
        ranked = ", ".join(f"{label} {probability:.2%}" for label, probability in labels)
        print(f"{path}: {ranked}")
