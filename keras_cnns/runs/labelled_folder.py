"""Evaluate a run on other labelled photos: a folder with a folder for each class."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from keras_cnns.data.sources.folder.files import find_images
from keras_cnns.data.sources.folder.findings import printable
from keras_cnns.data.sources.folder.layout import read_layout
from keras_cnns.messages import counting
from keras_cnns.runs.image_files import describe_problem, read_files
from keras_cnns.runs.predictions import Predictions, collect
from keras_cnns.runs.run import Run
from keras_cnns.suggestions import did_you_mean


@dataclass(frozen=True)
class FolderEvaluation:
    """The predictions for a folder of photos with the classes of a run.

    Attributes:
        predictions: the predictions for all readable images.
        notes: sentences on differences of class names.
        unreadable: `file: reason` for each file that is not counted.
    """

    predictions: Predictions
    notes: tuple[str, ...]
    unreadable: tuple[str, ...]


def evaluate_folder(run: Run, folder: str | Path) -> FolderEvaluation:
    """Predict the classes of the photos in a folder that has a folder for each class.

    Two classes are the same if their names in the folder and in the run differ only in case or
    Unicode form. Images of classes that the run does not have are not counted. The notes of the
    result report such names and such classes.

    Args:
        run: a finished run.
        folder: a folder with one folder for each class.

    Raises:
        ValueError: there is no such folder, it has split folders, none of its classes is a class of
            the run, or none of its files can be read.
    """
    layout = read_layout(folder)
    if splits := sorted({file.split for file in layout.files if file.split}):
        raise ValueError(
            f"{folder} has folders for the splits {', '.join(splits)}; give one of these folders, "
            f"such as {folder}/{splits[0]}"
        )
    files = find_images(layout.files)
    counts = Counter(file.label for file in files)
    if not counts:
        raise ValueError(f"{folder} has no folder with images in it; it needs one for each class")
    matched, notes = match_labels(run.labels, counts)
    if not matched:
        raise ValueError(
            f"no class of {folder} ({_listed(counts)}) is a class of the run "
            f"({_listed(run.labels)})"
        )
    labels = {file.path: matched[file.label] for file in files if file.label in matched}
    unreadable: list[str] = []

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in read_files(labels, run.recipe.data):
            count(len(batch))
            read = [(path, image) for path, image in batch if isinstance(image, np.ndarray)]
            unreadable.extend(
                f"{printable(str(path))}: {describe_problem(path, image)}"
                for path, image in batch
                if isinstance(image, Exception)
            )
            if read:
                images = np.stack([image for _, image in read])
                yield images, np.array([labels[path] for path, _ in read])

    with counting(f"predicting {folder}", len(labels)) as count:
        read_batches = batches()
        first = next(read_batches, None)
        if first is None:
            raise ValueError(
                f"no file of {folder} can be read; the first of them is {unreadable[0]}"
            )
        predictions = collect(run.load_model(), chain([first], read_batches), worst=0)
    return FolderEvaluation(predictions, tuple(notes), tuple(unreadable))


def match_labels(
    known: Sequence[str], counts: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """Return the index of the run's class for each class of a folder, and notes on differences.

    Args:
        known: the labels of a run.
        counts: class of the folder -> number of images.
    """
    indices = {label: index for index, label in enumerate(known)}
    by_key: dict[str, list[str]] = defaultdict(list)
    for label in known:
        by_key[_comparable(label)].append(label)
    matched: dict[str, int] = {}
    notes, surplus = [], []
    for label, count in counts.items():
        similar = by_key.get(_comparable(label), [])
        if label in indices:
            matched[label] = indices[label]
        elif len(similar) == 1:  # if several are similar, the match is unclear
            matched[label] = indices[similar[0]]
            same_text = _composed(label) == _composed(similar[0])
            difference = "Unicode form" if same_text else "case"
            notes.append(
                f"the class {_quoted(label, ascii_only=same_text)} differs only in {difference} "
                f"from the run's class {_quoted(similar[0], ascii_only=same_text)}, and counts as "
                "that class"
            )
        else:
            hint = did_you_mean(label, known)
            images = f"{count} image{'s' if count > 1 else ''}"
            surplus.append(f"{_quoted(label)} ({images}{hint})")
    if surplus:
        notes.append(f"the run has no class {', '.join(surplus)}; these images are not counted")
    missing = [label for label in known if indices[label] not in matched.values()]
    if missing:
        notes.append(f"the folder has no images of {_listed(missing)}")
    return matched, notes


def _composed(label: str) -> str:
    return unicodedata.normalize("NFC", label)


def _comparable(label: str) -> str:
    return _composed(_composed(label).casefold())


def _quoted(label: str, *, ascii_only: bool = False) -> str:
    return ascii(label) if ascii_only else repr(label)


def _listed(labels: Iterable[str], limit: int = 10) -> str:
    labels = list(labels)
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    return ", ".join(map(repr, labels[:limit])) + more
