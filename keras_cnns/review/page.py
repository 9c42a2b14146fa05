"""The page `review.html`: pictures of the suspicious labels, and how to correct them."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from keras_cnns.data import Splits, read_image
from keras_cnns.data.sources.folder.corrections import EXCLUDE, FILE, LABEL, YES
from keras_cnns.data.sources.folder.findings import printable
from keras_cnns.recipes import Recipe
from keras_cnns.report import page
from keras_cnns.review.scores import Ranking
from keras_cnns.review.table import TABLE, relative_name
from keras_cnns.runs.names import CONFIG
from keras_cnns.spreadsheets import escape_cell, format_csv
from keras_cnns.training.folds import OutOfFold, fold_path

_PICTURES = 240  # maximum number of pictures
_OPEN_PICTURES = 60  # further pictures are hidden until the reader unfolds them
_SIDE = 176  # pixels of a picture's longer side
_PAIRS = 15  # rows of the table of confused classes
_OPEN_ROWS = 40  # a table with more classes is hidden until the reader unfolds it
_EXAMPLES = 3  # rows of the example of a corrections file
_MISSING = np.full((_SIDE, _SIDE, 1), 200, np.uint8)  # replaces the picture of a missing file
_BATCH_SIZE = 256


def render(run: Path, recipe: Recipe, found: OutOfFold, ranking: Ranking, folder: Path) -> str:
    """Return the page as HTML.

    Args:
        run: the run directory, or the directory of the folds.
        recipe: the run's recipe, without folds.
        found: the predictions.
        ranking: the ranking of the labels.
        folder: the folder of the page; its links to the files are relative to this folder.
    """
    shown = ranking.order[:_PICTURES]
    sections = [
        page.Section(
            "Suspicious labels",
            f"These are the {len(shown):,} images whose labels have the lowest probabilities, "
            "predicted by models that have not seen the images. The lowest probability comes "
            "first. Below each picture are the rank, the given label, the most probable other "
            "class, the split and the file.",
            [page.Pictures(_pictures(recipe, found, ranking, shown, folder), _OPEN_PICTURES)],
        ),
        page.Section("Correct the labels", "", _instructions(run, recipe, found, ranking)),
        page.Section(
            "Classes that are mistaken for each other",
            "The number of probable label errors for each pair of classes.",
            [_pairs(found, ranking)],
        ),
        page.Section(
            "Classes",
            "The threshold is the mean probability of a class over the images with its label.",
            [_classes(found, ranking)],
        ),
        page.Section("Method", "", [page.Text(_describe_method(found))]),
    ]
    hits = found.probabilities.argmax(axis=1) == found.labels
    metrics = page.Cards(
        [
            ("images", f"{len(found.labels):,}"),
            ("probable label errors", f"{int(ranking.is_issue.sum()):,}"),
            ("folds", str(int(found.folds.max()))),
            ("accuracy on images that the models have not seen", f"{hits.mean():.2%}"),
        ]
    )
    subtitle = (
        f"{recipe.model.name} on {recipe.data.name}, {len(found.classes)} classes. The table "
        f"{TABLE}, beside this page, lists all images."
    )
    title = f"Label review of {printable(run.resolve().name)}"
    return page.render(title, subtitle, sections, metrics, contents=True)


def _pictures(
    recipe: Recipe, found: OutOfFold, ranking: Ranking, shown: np.ndarray, folder: Path
) -> list[page.Picture]:
    images = _read_pictures(recipe, found, shown)
    pictures = []
    for rank, (i, image) in enumerate(zip(shown.tolist(), images, strict=True), 1):
        file = str(found.files[i])
        name = relative_name(file, recipe.data) or f"image {found.indices[i]}"
        pictures.append(
            page.Picture(
                image,
                (
                    f"{rank}: {_name(found, found.labels[i])} ({ranking.confidences[i]:.1%})",
                    f"suggested: {_name(found, ranking.suggested[i])} "
                    f"({ranking.suggested_probabilities[i]:.1%})",
                    str(found.splits[i]),
                    printable(name),
                ),
                page.file_address(Path(file), folder) if file else "",
            )
        )
    return pictures


def _read_pictures(recipe: Recipe, found: OutOfFold, shown: np.ndarray) -> list[np.ndarray]:
    """Return the images, uint8 [H, W, C]. Image files are reduced in size, but not cropped."""
    if recipe.data.path and all(found.files[shown]):
        return [_read_file(str(file)) for file in found.files[shown]]
    pixels: dict[int, np.ndarray] = {}
    splits = Splits(recipe.data)
    for name in dict.fromkeys(found.splits[shown].tolist()):
        rows = {int(found.indices[i]): int(i) for i in shown if found.splits[i] == name}
        index = 0
        for images, _ in splits.open(name, batch_size=_BATCH_SIZE):
            for image in np.asarray(images):
                if index in rows:
                    pixels[rows[index]] = image
                index += 1
    return [pixels[int(i)] for i in shown]


def _read_file(file: str) -> np.ndarray:
    try:
        image = Image.fromarray(read_image(file, 3))
    except (OSError, ValueError):  # the file was removed after the prediction
        return _MISSING
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


def _name(found: OutOfFold, label: int) -> str:
    return printable(str(found.classes[label]))


def _instructions(
    run: Path, recipe: Recipe, found: OutOfFold, ranking: Ranking
) -> list[page.Block]:
    if not any(found.files):
        return [
            page.Text(
                "Corrections need a folder of images. These images are not files: correct their "
                "labels where they come from."
            )
        ]
    config = (run if (run / CONFIG).exists() else fold_path(run, 1)) / CONFIG
    command = ["keras-cnns", "train", "--recipe", str(config), "--run", f"{run}-corrected"]
    command += ["--set", "data.corrections=corrections.csv"]
    if config.parent != run:
        command += ["--set", "data.fold=0", "--set", "data.folds=0"]
    steps = (
        f"Write a file corrections.csv with the columns {FILE}, {LABEL} and {EXCLUDE}, and a row "
        f"for each image that gets another label or is excluded. Or edit {TABLE}, which has these "
        "columns too, and save it as corrections.csv in UTF-8: replace the label where it is "
        f"wrong, and write {YES} in the column {EXCLUDE} for an image that belongs to no class. "
        "Rows that you leave as they are change nothing.",
        *(
            [
                f"This run has corrections already, and the new file replaces them. {TABLE} "
                "contains them; if you write a new file, copy the rows of "
                f"{printable(recipe.data.corrections)} into it."
            ]
            if recipe.data.corrections
            else []
        ),
        "Train with this file. The photos stay where they are; the run directory receives a copy "
        "of corrections.csv.",
    )
    return [
        page.Items(steps, "Steps"),
        page.Code(_example(recipe, found, ranking), title="An example with these images"),
        page.Code(shlex.join(command), title="The training"),
    ]


def _example(recipe: Recipe, found: OutOfFold, ranking: Ranking) -> str:
    """Return a corrections file for the most suspicious images."""
    rows = [(FILE, LABEL, EXCLUDE)]
    for number, i in enumerate(ranking.order[:_EXAMPLES].tolist()):
        is_last = number == _EXAMPLES - 1
        label = "" if is_last else escape_cell(str(found.classes[ranking.suggested[i]]))
        name = escape_cell(relative_name(str(found.files[i]), recipe.data))
        rows.append((name, label, YES if is_last else ""))
    return "\n".join(map(printable, format_csv(rows).splitlines()))


def _pairs(found: OutOfFold, ranking: Ranking) -> page.Block:
    issues = np.flatnonzero(ranking.is_issue)
    if not len(issues):
        return page.Text("No label is probably wrong.")
    pairs = Counter((int(found.labels[i]), int(ranking.suggested[i])) for i in issues)
    rows = [
        (_name(found, label), _name(found, other), str(count))
        for (label, other), count in pairs.most_common(_PAIRS)
    ]
    return page.Table(("label", "suggested", "images"), rows, numbers=1)


def _classes(found: OutOfFold, ranking: Ranking) -> page.Table:
    rows: list[Sequence[str]] = []
    for k, threshold in enumerate(ranking.thresholds):
        members = found.labels == k
        issues = int(ranking.is_issue[members].sum())
        rows.append((_name(found, k), str(members.sum()), str(issues), f"{threshold:.1%}"))
    summary = f"All {len(rows)} classes" if len(rows) > _OPEN_ROWS else ""
    columns = ("class", "images", "probable label errors", "threshold")
    return page.Table(columns, rows, numbers=3, summary=summary)


def _describe_method(found: OutOfFold) -> str:
    return (
        "The score is the self-confidence: the probability of the given label, predicted by a "
        "model that has not seen the image. The training and validation images are divided into "
        f"folds. Each of the {int(found.folds.max())} models was trained on all folds except one, "
        "and predicts the images of that fold. The test images are predicted by all models, and "
        "the probabilities are averaged. A label is probably wrong if it differs from two "
        "classes: from the most probable class, and from the most probable of those classes whose "
        "probabilities reach their thresholds (confident learning, Northcutt et al. 2021). Unusual "
        "images with right labels are found too, so look at each image."
    )
