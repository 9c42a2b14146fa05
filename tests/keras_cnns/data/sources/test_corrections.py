"""Corrections: labels change and images are left out, and the photos stay as they are."""

import os
from dataclasses import replace
from pathlib import Path

import planted
import pytest

from keras_cnns.data import Splits
from keras_cnns.data.sources.folder.corrections import Corrections, read_corrections
from keras_cnns.data.sources.folder.layout import read_layout
from keras_cnns.recipes import with_absolute_paths
from keras_cnns.spreadsheets import escape_cell, unescape_cell

FIRST = f"{planted.PLAIN}/01.png"


def read(text: str | bytes, root: Path, folder: Path) -> Corrections:
    path = folder / "corrections.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_corrections(path, root, read_layout(root).files)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\nMäntel/nope.png,Mäntel\n", "line 2: there is no file 'Mäntel/nope.png' in"),
        ("file,label\nwrong-2.png,Mäntel\n", "line 2: .* did you mean '<img .*/wrong-2.png'"),
        (f"file,label\n{FIRST},Mantel\n", "line 2: there is no class 'Mantel'; did you mean 'Mänt"),
        (f"file,label\n{FIRST},=2+5\n{FIRST},=2+5\n", "line 3: it repeats line 2 about"),
        (f"file,exclude\n{FIRST},yes\n\n{FIRST},no\n", "line 4: .* has neither a label nor 'yes'"),
        (
            f"file,label,exclude\n{FIRST},=2+5,\n{FIRST},,yes\n",
            "line 3: it contradicts line 2 about",
        ),
        (f"file,label,exclude\n{FIRST},=2+5,yes\n", "line 2: .* and is excluded too"),
        (f"file,exclude\n{FIRST},perhaps\n", "line 2: exclude is 'perhaps'; write 'yes'"),
        (f'file,label\n{FIRST},"Mäntel,=2+5"\n', "2 labels; classification with several labels"),
        (f"file,label\n{FIRST},Mäntel,=2+5\n", "line 2 has 3 cells.*several labels"),
        (f"file,label,label\n{FIRST},Mäntel,=2+5\n", "line 1 has the column 'label' more than"),
        (f"{FIRST},Mäntel\n", "line 1 is .*; the first line must name the column"),
        (
            f"file,label,exlude\n{FIRST},Mäntel,\n",
            "column 'exlude'; did you mean 'exclude'",
        ),
        (f'file,label\n"{FIRST},Mäntel\n', "line 2: unexpected end of data"),
        ("", "line 1 is ''"),
        ("file,label\nMäntel/01.png,Mäntel".encode("cp1252"), "is not in UTF-8"),
    ],
)
def test_wrong_rows_are_named_by_their_lines(
    text: str | bytes, message: str, planted_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(text, planted_folder, tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_labels_change_and_images_are_excluded(
    separator: str, planted_folder: Path, tmp_path: Path
) -> None:
    rows = [
        ("\ufefffile", "label", "exclude"),
        (FIRST, "'=2+5", ""),  # as labels.csv escapes it
        (str(planted_folder / planted.PLAIN / "02.png"), planted.PLAIN, ""),  # no change
        ("'=2+5/03.png", "", "YES"),
    ]
    text = "".join(f"{separator.join(row)}\r\n" for row in rows)
    found = read(text, planted_folder, tmp_path)
    assert found.labels == {planted_folder / FIRST: planted.FORMULA}
    assert found.excluded == {planted_folder / planted.FORMULA / "03.png"}
    assert found.describe() == "1 label changed, 1 image excluded"


def test_a_data_set_sees_the_corrected_labels(
    planted_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = planted.make_recipe(planted_folder).data
    before = Splits(data).fingerprint()
    path = tmp_path / "corrections.csv"
    path.write_text(f"file,label\n{FIRST},{planted.PLAIN}\n")  # changes nothing
    corrected = replace(data, corrections=str(path))
    assert Splits(corrected).fingerprint() == before
    wrong, label = next(iter(planted.WRONG.items()))
    path.write_text(f"file,label,exclude\n'{wrong},{label},\n{FIRST},,yes\n")
    splits = Splits(corrected)
    assert splits.fingerprint() != before
    seen = {}
    for name in ("train", "validation", "test"):
        split = splits.open(name, batch_size=128)
        ((_, labels),) = list(split)
        assert split.path_of
        for index, number in enumerate(labels.numpy()):
            seen[split.path_of(index)] = splits.labels[number]
    assert seen[planted_folder / wrong] == label
    assert planted_folder / FIRST not in seen
    assert (planted_folder / FIRST).exists()
    assert len(seen) == 3 * planted.EACH + len(planted.WRONG) + 2 - 1
    monkeypatch.chdir(tmp_path)
    recipe = planted.make_recipe(planted_folder, corrections="corrections.csv")
    assert with_absolute_paths(recipe).data.corrections == str(path)


def test_corrections_need_a_folder() -> None:
    with pytest.raises(ValueError, match='corrections are only possible with name = "folder"'):
        planted.make_recipe(Path("photos"), name="idx", corrections="corrections.csv")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\tb", "'=1", "'", "plain", ""])
def test_cells_are_escaped_without_loss(text: str) -> None:
    cell = escape_cell(text)
    assert unescape_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t"))


def test_a_name_that_is_not_utf_8_is_found(tmp_path: Path) -> None:
    root, name = tmp_path / "photos", os.fsdecode(b"caf\xe9.png")
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
    (root / "cat" / name).touch()
    (root / "dog" / "1.png").touch()
    found = read(b"file,label\ncat/caf\xe9.png,dog\n", root, tmp_path)
    assert found.labels == {root / "cat" / name: "dog"}
