"""Write results in shards, each of them atomically, so that an interrupted run can continue.

scores/plan.json           the inputs: the model, the options and the number of images
scores/images.jsonl        the names of the images, so that a continued run scores the same ones
scores/part-00000.jsonl    the rows of the first shard
scores/summary.json        the counts, written last

Each file is written under a temporary name, flushed to disk, and then renamed. If the result is a
single file, such as answers.csv, its shards are written in the same way to the directory
answers.csv.partial and are then joined.
"""

import contextlib
import csv
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson

from keras_cnns_serve.errors import InvalidInputError

from .inputs import read_names
from .rows import FORMATS, Columns, RowFormat, Totals

_PLAN, _NAMES, _SUMMARY = "plan.json", "images.jsonl", "summary.json"


@dataclass(frozen=True)
class Plan:
    """The inputs of a run. A run continues an earlier one only if the plans of both are equal."""

    model: str
    version: int
    format: str  # the format's name, such as onnx_int8
    sha256: str  # a checksum over the checksums of the version's files
    images: list[str]  # the arguments that specify the images
    directory: str  # the working directory, to which relative names refer
    top_k: int | None
    min_probability: float | None
    shard_size: int
    batch_size: int
    max_pixels: int


class Output:
    """The shards of one result.

    Args:
        to: a .csv or .jsonl file, or a directory.
        is_single_file: whether `to` is a file.

    Raises:
        InvalidInputError: the directory cannot be created or written, or it is not empty and does
            not belong to an earlier run.
    """

    def __init__(self, to: Path, is_single_file: bool) -> None:
        self._to = to
        self.format: RowFormat = FORMATS[to.suffix.lower() if is_single_file else ".jsonl"]
        self._directory = to.with_name(f"{to.name}.partial") if is_single_file else to
        self._is_single_file = is_single_file
        self.summary_path = (
            to.with_name(f"{to.name}.{_SUMMARY}") if is_single_file else to / _SUMMARY
        )
        self.count = 0  # number of images
        self._shard_size = 1

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Create the directory, and lock it while the run writes to it.

        Raises:
            InvalidInputError: another process writes to it, or it cannot be created.
        """
        try:
            if self._is_single_file and self._to.is_dir():
                raise InvalidInputError(f"--to {self._to} is a directory, not a file")
            self._directory.mkdir(parents=True, exist_ok=True)
            self._check_content()
            with _locked(self._directory):
                yield
        except BrokenPipeError:  # of the terminal, and not of the result
            raise
        except OSError as error:  # also catches errors that are raised while the run writes
            raise InvalidInputError(
                f"--to {error.filename or self._to} cannot be written: {error.strerror}"
            ) from error

    def _check_content(self) -> None:
        """Check that the directory is empty or contains only files of an earlier run."""
        if (self._directory / _PLAN).exists():
            return
        for path in self._directory.iterdir():
            # If the result is a single file, the directory is removed at the end. If the removal
            # was interrupted, the directory has shards but no plan.
            is_shard = self._is_single_file and path.name.startswith(("part-", ".part-"))
            if path.name not in (_NAMES, f".{_NAMES}.tmp", f".{_PLAN}.tmp") and not is_shard:
                raise InvalidInputError(
                    f"--to {self._to} is written through {self._directory}, which holds other "
                    f"files, such as {path.name}; move them away, or give another --to"
                    if self._is_single_file
                    else f"--to {self._directory} holds other files, such as {path.name}; give an "
                    "empty or new directory"
                )

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a complete run; None for an incomplete run or a single file."""
        if self._is_single_file or not self.summary_path.exists():
            return None
        return _read_object(self.summary_path)

    def start(self, plan: Plan, write_names: Callable[[IO[bytes]], int]) -> bool:
        """Write the plan and the names of the images, or check that an earlier run had this plan.

        Args:
            plan: the inputs of this run.
            write_names: a function that writes the images' names to a file and returns their
                number.

        Returns:
            True if an earlier run is continued.

        Raises:
            InvalidInputError: the directory has the results of another plan.
        """
        path = self._directory / _PLAN
        document = asdict(plan)
        self._shard_size = plan.shard_size
        if path.exists():
            before = _read_object(path)
            self.count = before.get("count", 0)
            # Plans written by earlier versions of this program lack some keys.
            differences = [
                key for key, value in document.items() if before.get(key, value) != value
            ]
            if differences:
                key = differences[0]
                difference = (
                    "the files of its version have changed"
                    if key == "sha256"
                    else f"its {key} is {before[key]!r}, not {document[key]!r}"
                )
                raise InvalidInputError(
                    f"{self._directory} has the results of another run: {difference}; give another "
                    f"--to, or delete {self._directory}"
                )
            return True
        # Without a plan, the remaining shards belong to a single file that is already complete.
        for part in self._directory.glob("part-*"):
            part.unlink()
        with _replacing(self._directory / _NAMES) as file:
            self.count = write_names(file)
        with _replacing(path) as file:
            file.write(_to_text(document | {"count": self.count}))
        return False

    def join(self) -> str:
        """Read the plan of a run that another process started, to write some of its shards.

        Returns:
            The name of the model format that the run uses.
        """
        plan = _read_object(self._directory / _PLAN)
        self.count, self._shard_size = plan["count"], plan["shard_size"]
        return str(plan["format"])

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return -(-self.count // self._shard_size)

    def size(self, shard: int) -> int:
        """Return the number of images of a shard."""
        return min(self._shard_size, self.count - shard * self._shard_size)

    def finished(self, shard: int) -> Totals | None:
        """Return the counts of a shard, or None if the shard is not complete."""
        totals = Totals()
        try:
            for outcome in self.format.read_outcomes(self._part(shard)):
                totals.add(outcome)
        except FileNotFoundError:
            return None
        # A file that cannot be parsed was not written by this program.
        except (ValueError, KeyError, IndexError, csv.Error):
            return None
        return totals if totals.images == self.size(shard) else None

    def names(self, finished: set[int]) -> Iterator[tuple[int, Iterator[str]]]:
        """Yield each shard that is not finished, with the names of its images.

        Consume the names of a shard before asking for the next shard.
        """
        names = read_names(self._directory / _NAMES)
        for shard in range(self.shards):
            of_shard = islice(names, self.size(shard))
            if shard in finished:
                for _ in of_shard:
                    pass
            else:
                yield shard, of_shard

    def names_of(self, shard: int) -> Iterator[str]:
        """Yield the names of the images of a shard."""
        first = shard * self._shard_size
        return islice(read_names(self._directory / _NAMES, first), self.size(shard))

    def writing(self, shard: int) -> "contextlib.AbstractContextManager[IO[bytes]]":
        """Return a context manager for a shard's file, which appears when the context ends."""
        return _replacing(self._part(shard))

    def finish(self, summary: dict[str, Any], columns: Columns) -> None:
        """Join the shards of a single file, and write the summary."""
        if self._is_single_file:
            with _replacing(self._to) as file:
                file.write(self.format.header(columns))
                for shard in range(self.shards):
                    with self._part(shard).open("rb") as part:
                        shutil.copyfileobj(part, file)
        with _replacing(self.summary_path) as file:
            file.write(_to_text(summary))
        if self._is_single_file:
            # Remove the plan first: shards without a plan are not continued.
            (self._directory / _PLAN).unlink()
            shutil.rmtree(self._directory)

    def _part(self, shard: int) -> Path:
        return self._directory / f"part-{shard:05}{self.format.suffix}"


def _to_text(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = orjson.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidInputError(f"{path} was not written by an earlier run: {error}") from error
    return document


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock a directory while this process writes to it, if the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInputError(f"another process is writing to {directory}") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that is renamed to `path` when it is complete and flushed to disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
