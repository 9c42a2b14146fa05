"""`keras-cnns predict`."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_cnns.commands import SOME_FAILED, is_installed, load_command
from keras_cnns.messages import counting
from keras_cnns.quiet import quiet_stderr
from keras_cnns.runs.exported import find_published

if TYPE_CHECKING:
    from keras_cnns.runs.answers import Answer


def predict(
    run: Annotated[
        Path,
        typer.Argument(help="Run directory of a finished training, or directory of a model."),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files (JPEG, PNG, WebP, BMP or GIF), directories of them, or quoted "
            "patterns such as 'photos/**/*.jpg'."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="File for the predictions: .csv, .jsonl or, if pyarrow is installed, .parquet. "
            "Images that have a row in it are not predicted again."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Number of labels per image.")] = 5,
    min_probability: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="If the highest probability of an image is lower than this, the image is unknown, "
            "and its row has no label.",
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="As --min-probability, but choose the threshold so that the predicted labels have "
            "this accuracy, such as 0.98.",
        ),
    ] = None,
) -> None:
    """Print or write the most probable labels of image files and their probabilities.

    For a file that cannot be read, an error replaces the labels, and the exit
    status is 3. With an exported model (models/NAME), keras-cnns-serve predicts
    the labels, as with `keras-cnns score`. With --to, the same command continues
    where it was interrupted.
    """
    if find_published(run):  # a version of an exported model, or the model
        written = [] if to is None else ["--to", str(to)]
        for option, value in (
            ("--min-probability", min_probability),
            ("--min-accuracy", min_accuracy),
        ):
            written += [] if value is None else [option, f"{value:.9f}"]
        sys.exit(_score(run, [*images, *written, "--top-k", str(top_k)]))
    with quiet_stderr():
        from keras_cnns.runs.answers import AnswerFile, predict_files, write_parquet
        from keras_cnns.runs.image_files import find_image_files
        from keras_cnns.runs.run import open_run
        from keras_cnns.runs.selective import find_threshold

    finished_run = open_run(run)
    if min_accuracy is not None:
        if min_probability is not None:
            raise typer.BadParameter("give --min-probability or --min-accuracy, not both")
        try:
            min_probability = find_threshold(finished_run.results(), min_accuracy)
        except ValueError as error:
            raise typer.BadParameter(f"{run} {error}", param_hint="--min-accuracy") from error
        print(
            f"threshold {min_probability}"
            if min_probability
            else f"no threshold is needed for the accuracy {min_accuracy:g}: no image is unknown",
            file=sys.stderr,
        )
    try:
        files = find_image_files(images)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    top_k = min(top_k, len(finished_run.labels))
    if to is None:
        failures = 0
        for answers in predict_files(
            finished_run, files, top_k=top_k, min_probability=min_probability
        ):
            failures += sum(map(_print, answers))
        if failures:
            raise typer.Exit(SOME_FAILED)
        return
    is_parquet = to.suffix.lower() == ".parquet"
    if is_parquet and not find_spec("pyarrow"):
        raise typer.BadParameter(
            f"{to} needs the package pyarrow: pip install 'keras-cnns[parquet]'", param_hint="--to"
        )
    try:
        # A Parquet file cannot be extended, so it is converted from a file of JSON Lines, which is
        # kept for resuming.
        answer_file = AnswerFile(
            to.with_suffix(".jsonl") if is_parquet else to,
            top_k,
            min_probability=min_probability,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from error
    with answer_file:
        remaining = [file for file in files if str(file) not in answer_file.finished]
        if len(remaining) < len(files):
            print(f"{to}: {len(files) - len(remaining)} of {len(files)} files have a row already")
        if remaining:
            with counting("predicting", len(remaining)) as count:
                for answers in predict_files(
                    finished_run, remaining, top_k=top_k, min_probability=min_probability
                ):
                    answer_file.append(answers)
                    count(len(answers))
        failures = sum(answer_file.finished[str(file)] for file in files)
    if is_parquet:
        json_lines = to.with_suffix(".jsonl")
        write_parquet(json_lines, to, has_threshold=min_probability is not None)
    print(f"{to}: {len(files) - failures} of {len(files)} files predicted")
    if failures:
        print(f"{to}: {failures} could not be read; see `error` in their rows", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


def _print(answer: "Answer") -> bool:
    """Print the prediction for a file, and return whether it is an error."""
    from keras_cnns.data.sources.folder.findings import printable

    name = printable(answer.file)
    if answer.error:
        print(f"{name}: {answer.error}", file=sys.stderr)
        return True
    ranked = ", ".join(f"{label} {probability:.2%}" for label, probability in answer.ranked)
    print(f"{name}: unknown ({ranked})" if answer.unknown else f"{name}: {ranked}")
    return False


def _score(model: Path, arguments: Sequence[str]) -> int:
    """Run the command `score` of keras-cnns-serve, and return its exit status.

    Raises:
        RuntimeError: keras-cnns-serve is not installed.
    """
    if not is_installed("score"):
        raise RuntimeError(
            f"{model} is an exported model, which keras-cnns-serve scores; install it "
            "(pip install keras-cnns-serve), or give a run directory"
        )
    return load_command("score")([str(model), *arguments], "keras-cnns predict")
