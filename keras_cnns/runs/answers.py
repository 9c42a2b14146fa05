"""Write predictions for many files to a CSV or JSON Lines file, which a later command can continue.

Rows are appended as soon as their batch is predicted. When an interrupted command is resumed, an
incomplete row at the end is removed, and files that have a row are not predicted again. Names are
written unchanged, even names that begin with `=`, `+`, `-` or `@`: see `docs/training.md`.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from keras_cnns.files import naming_the_file, replacing
from keras_cnns.runs.image_files import describe_problem, read_files
from keras_cnns.runs.lock import lock
from keras_cnns.runs.predictions import predictor
from keras_cnns.runs.run import Run
from keras_cnns.runs.selective import is_answered
from keras_cnns.spreadsheets import format_csv

_SUFFIXES = (".csv", ".jsonl")
_DECIMALS = 6  # number of decimals of a probability
_ROW_GROUP = 10_000  # number of rows that are converted to Parquet at once


@dataclass(frozen=True)
class Answer:
    """The prediction of a file.

    Attributes:
        file: the path as the user gave it.
        ranked: the labels and their probabilities, best first.
        error: the reason why there is no prediction; "" if there is a prediction.
        unknown: whether the highest probability is below the threshold.
    """

    file: str
    ranked: tuple[tuple[str, float], ...] = ()
    error: str = ""
    unknown: bool = False


def predict_files(
    run: Run, files: Iterable[str | Path], *, top_k: int, min_probability: float | None = None
) -> Iterator[list[Answer]]:
    """Yield the predictions of a run's model for image files, batch by batch.

    Args:
        run: a finished run.
        files: paths; a file that cannot be read has an answer with an error.
        top_k: the number of labels for each image; all of them if there are fewer classes.
        min_probability: 0..1; an image whose highest probability is lower is unknown. If None, no
            image is unknown.
    """
    predict = predictor(run.load_model())
    for batch in read_files(files, run.recipe.data):
        readable = [pixels for _, pixels in batch if not isinstance(pixels, Exception)]
        rows = iter(predict(np.stack(readable)) if readable else ())
        yield [
            Answer(str(path), error=describe_problem(path, pixels))
            if isinstance(pixels, Exception)
            else _answer(path, next(rows), run.labels, top_k, min_probability)
            for path, pixels in batch
        ]


def _answer(
    path: Path,
    probabilities: np.ndarray,
    labels: Sequence[str],
    top_k: int,
    min_probability: float | None,
) -> Answer:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    ranked = tuple((labels[k], float(probabilities[k])) for k in order)
    unknown = min_probability is not None and not is_answered(probabilities.max(), min_probability)
    return Answer(str(path), ranked, unknown=bool(unknown))


class AnswerFile:
    """A file of predictions, which may exist already.

    Attributes:
        finished: image file -> whether its row is an error; only files with a row are keys.
    """

    def __init__(self, path: Path, top_k: int, *, min_probability: float | None = None) -> None:
        """Read the existing rows, and remove an incomplete row at the end.

        Args:
            path: a .csv or .jsonl file, which need not exist.
            top_k: the number of labels of each row.
            min_probability: the threshold of `predict_files`. If it is not None, the rows have a
                value `unknown`.

        Raises:
            ValueError: the suffix is neither .csv nor .jsonl, the existing file contains other
                columns, no predictions or predictions with another threshold, or another process
                is writing to it.
            OSError: the file cannot be read or written.
        """
        if path.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"{path} must end in {' or '.join(_SUFFIXES)}")
        self._path, self._is_csv = path, path.suffix.lower() == ".csv"
        self._top_k, self._min_probability = top_k, min_probability
        self._has_threshold = min_probability is not None
        self._columns = ["file", "label", "probability"]
        for rank in range(2, top_k + 1):
            self._columns += [f"label_{rank}", f"probability_{rank}"]
        self._columns += [*(["unknown"] if self._has_threshold else []), "error"]
        self.finished: dict[str, bool] = {}
        # Bytes of a name that are not UTF-8 are written unchanged.
        self._file = path.open("a", encoding="utf-8", errors="surrogateescape", newline="")
        try:
            lock(self._file.fileno())
            self._resume()
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"another process is writing to {path}") from None
        except BaseException:
            self._file.close()
            raise
        if self._is_csv and path.stat().st_size == 0:
            self._file.write(format_csv([self._columns]))

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, *_: object) -> None:
        with naming_the_file(self._path):
            self._file.close()

    def append(self, answers: Iterable[Answer]) -> None:
        """Append answers to the file, and flush it."""
        answers = list(answers)
        with naming_the_file(self._path):
            self._file.write("".join(map(self._format, answers)))
            self._file.flush()
        self.finished |= {answer.file: bool(answer.error) for answer in answers}

    def _format(self, answer: Answer) -> str:
        ranked = [(label, round(value, _DECIMALS)) for label, value in answer.ranked]
        if self._is_csv:
            cells: list[object] = [cell for pair in ranked for cell in pair]
            cells += [""] * (2 * self._top_k - len(cells))
            if answer.unknown:
                cells[0] = ""
            if self._has_threshold:
                cells.append("" if answer.error else str(answer.unknown).lower())
            return format_csv([[answer.file, *cells, answer.error]])
        row: dict[str, object] = {"file": answer.file}
        if answer.error:
            row["error"] = answer.error
        else:
            row |= dict(zip(("label", "probability"), ranked[0], strict=True))
            if self._has_threshold:
                row["unknown"] = answer.unknown
            if answer.unknown:
                row["label"] = None
            row["top"] = [{"label": label, "probability": value} for label, value in ranked]
        text = json.dumps(row, ensure_ascii=False)
        if not text.isprintable():  # bytes that are not UTF-8 must be escaped in JSON
            text = json.dumps(row)
        return text + "\n"

    def _resume(self) -> None:
        """Read the complete rows, and remove the rest of the file."""
        end = self._end_of_rows()
        with self._path.open("rb") as file:
            file.seek(end)
            rest = file.read().decode("utf-8", "replace")
        if self._is_csv:
            self._read_csv(end, rest)
        else:
            self._read_json_lines(end, rest)
        os.truncate(self._path, end)

    def _end_of_rows(self) -> int:
        """Return the number of bytes up to the end of the last complete row."""
        end = position = quotes = 0
        with self._path.open("rb") as file:
            for line in file:
                position += len(line)
                quotes += line.count(b'"') if self._is_csv else 0  # a quoted name may contain "\n"
                if line.endswith(b"\n") and quotes % 2 == 0:
                    end = position
        return end

    def _lines(self, end: int) -> Iterator[str]:
        with self._path.open("rb") as file:
            while file.tell() < end:
                yield file.readline().decode("utf-8", "surrogateescape")

    def _read_csv(self, end: int, rest: str) -> None:
        rows = csv.reader(self._lines(end))
        header = next(rows, None)
        is_cut_header = header is None and ",".join(self._columns).startswith(rest)
        if header != self._columns and not is_cut_header:
            found = ", ".join(header or [rest[:80]])
            raise ValueError(
                f"{self._path} has the columns {found}, but this command writes "
                f"{', '.join(self._columns)}; choose another file, or give the same options as "
                "when the file was begun"
            )
        for number, row in enumerate(rows, 2):
            if len(row) != len(self._columns):
                raise ValueError(
                    f"{self._path}: row {number} has {len(row)} cells instead of "
                    f"{len(self._columns)}; choose another file"
                )
            self.finished[row[0]] = bool(row[-1])
            if self._has_threshold and not row[-1]:
                self._check_threshold(f"row {number}", row[2], row[-2] == "true")

    def _read_json_lines(self, end: int, rest: str) -> None:
        begin = '{"file": '
        if not end and not (rest.startswith(begin) or begin.startswith(rest)):
            raise ValueError(f"{self._path} does not hold predictions; choose another file")
        for number, line in enumerate(self._lines(end), 1):
            try:
                row = json.loads(line)
                is_error = "error" in row
                labels = self._top_k if is_error else len(row["top"])
                has_threshold = self._has_threshold if is_error else "unknown" in row
                self.finished[str(row["file"])] = is_error
            except (ValueError, TypeError, KeyError):
                raise ValueError(
                    f"{self._path}: line {number} is not a prediction; choose another file"
                ) from None
            if labels != self._top_k:
                raise ValueError(
                    f"{self._path}: line {number} has {labels} labels, but this command writes "
                    f"{self._top_k}; choose another file, or give the same --top-k"
                )
            if has_threshold != self._has_threshold:
                raise ValueError(
                    f"{self._path}: line {number} was written with"
                    f"{'' if has_threshold else 'out'} a threshold; choose another file, or give "
                    "the same --min-probability"
                )
            if has_threshold and not is_error:
                self._check_threshold(f"line {number}", row["probability"], row["unknown"])

    def _check_threshold(self, where: str, probability: str | float, unknown: bool) -> None:
        """Raise ValueError if a row was written with another threshold."""
        try:
            value = float(probability)
        except (TypeError, ValueError):
            raise ValueError(
                f"{self._path}: {where} has the probability {probability!r}, which is not a "
                "number; choose another file"
            ) from None
        assert self._min_probability is not None
        is_rounded = abs(value - self._min_probability) <= 10**-_DECIMALS  # either may be right
        if not is_rounded and unknown == (value >= self._min_probability):
            raise ValueError(
                f"{self._path}: {where} was written with another threshold than "
                f"{self._min_probability}; choose another file, or give the same threshold"
            )


def write_parquet(json_lines: Path, path: Path, *, has_threshold: bool = False) -> None:
    """Convert the rows of an `AnswerFile` to Parquet.

    The columns are `file`, `label`, `probability`, `unknown` (with a threshold), `top` and `error`,
    as in JSON Lines. Bytes of a name that are not UTF-8 are escaped, because Parquet cannot hold
    them.

    Args:
        json_lines: the rows, a .jsonl file.
        path: the file, which is written atomically.
        has_threshold: whether the rows have a value `unknown`.

    Raises:
        ImportError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    ranked = [("label", pa.string()), ("probability", pa.float64())]
    top = ("top", pa.list_(pa.struct(ranked)))
    unknown = [("unknown", pa.bool_())] if has_threshold else []
    schema = pa.schema([("file", pa.string()), *ranked, *unknown, top, ("error", pa.string())])
    with (
        json_lines.open(encoding="utf-8") as lines,
        replacing(path) as partial,
        parquet.ParquetWriter(partial, schema) as writer,
    ):
        while rows := [json.loads(line) for line in islice(lines, _ROW_GROUP)]:
            for row in rows:
                row["file"] = os.fsencode(row["file"]).decode("utf-8", "backslashreplace")
            writer.write_table(pa.Table.from_pylist(rows, schema))
