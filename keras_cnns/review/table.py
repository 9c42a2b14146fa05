"""The table labels.csv of a review, which can be edited and used as `data.corrections`."""

import os
from collections.abc import Iterator
from pathlib import Path

from keras_cnns.data import Splits
from keras_cnns.data.sources.folder.corrections import YES
from keras_cnns.files import encode_names, write_names
from keras_cnns.recipes import DataConfig
from keras_cnns.review.scores import Ranking
from keras_cnns.runs.tables import format_rows
from keras_cnns.spreadsheets import escape_cell
from keras_cnns.training.folds import OutOfFold

TABLE = "labels.csv"
_COLUMNS = (
    *("file", "split", "index", "label", "exclude", "suggested_label", "label_probability"),
    *("suggested_probability", "rank", "is_issue"),
)


def format_table(data: DataConfig, found: OutOfFold, ranking: Ranking) -> str:
    """Return the text of labels.csv; `data.corrections` accepts all of its columns."""
    rows = [*_ranked_rows(data, found, ranking), *_excluded_rows(data)]
    return format_rows(rows, _COLUMNS, header=True)


def _ranked_rows(
    data: DataConfig, found: OutOfFold, ranking: Ranking
) -> Iterator[dict[str, object]]:
    for rank, i in enumerate(ranking.order.tolist(), 1):
        yield {
            "file": escape_cell(relative_name(str(found.files[i]), data)),
            "split": found.splits[i],
            "index": int(found.indices[i]),
            "label": escape_cell(str(found.classes[found.labels[i]])),
            "suggested_label": escape_cell(str(found.classes[ranking.suggested[i]])),
            "label_probability": f"{ranking.confidences[i]:.6g}",
            "suggested_probability": f"{ranking.suggested_probabilities[i]:.6g}",
            "rank": rank,
            "is_issue": YES if ranking.is_issue[i] else "no",
        }


def _excluded_rows(data: DataConfig) -> Iterator[dict[str, object]]:
    """Yield rows for images that earlier corrections exclude, so that the table still has them."""
    corrections = Splits(data).corrections
    for file in sorted(corrections.excluded) if corrections else ():
        yield {"file": escape_cell(relative_name(str(file), data)), "exclude": YES}


def relative_name(file: str, data: DataConfig) -> str:
    """Return the path of a file relative to the folder of the data; "" if there is no file."""
    return Path(os.path.relpath(file, data.path)).as_posix() if file else ""


def write_table(path: Path, text: str) -> None:
    """Write the table, unless there is a table with other content.

    Raises:
        ValueError: there is a table with other content, for instance because the user has edited
            it.
    """
    if path.exists() and path.read_bytes() != encode_names(text):
        raise ValueError(
            f"{path} has been edited, or belongs to other data; rename it, for example to "
            "corrections.csv, or remove it"
        )
    write_names(path, text)
