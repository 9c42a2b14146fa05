import io
import json
import os
from pathlib import Path

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from keras_cnns_serve.errors import InvalidInputError, ServeError
from keras_cnns_serve.scoring import inputs
from keras_cnns_serve.scoring.inputs import read_content, read_names, write_names

FILES = (
    *("p/b/2.JPG", "p/b/1.jpg", "p/a/3.png", "p/top.gif", "p/notes.txt", "p/.hidden.jpg"),
    *("p/.git/4.jpg", "p/b/c/5.webp", "p/b/c/6.jpg"),
)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of(*arguments: str) -> list[str]:
    file = io.BytesIO()
    count = write_names(arguments, file, [])
    Path("names").write_bytes(file.getvalue())
    names = list(read_names(Path("names")))
    assert len(names) == count
    return names


ALL = ["p/a/3.png", "p/b/1.jpg", "p/b/2.JPG", "p/b/c/5.webp", "p/b/c/6.jpg", "p/top.gif"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["p"], ALL),
        (["p/"], ALL),
        (["p", "p/b", "p/b/1.jpg"], ALL),  # no image is scored twice
        (["./p/a"], ["./p/a/3.png"]),
        (["p/**/*.jpg"], ["p/b/1.jpg", "p/b/c/6.jpg"]),
        (["p/*/*.jpg"], ["p/b/1.jpg"]),
        (["p/[ab]/?.[pj]*"], ["p/a/3.png", "p/b/1.jpg"]),
        (["p/b/**"], ["p/b/1.jpg", "p/b/2.JPG", "p/b/c/5.webp", "p/b/c/6.jpg"]),
        (["p/**/c/*"], ["p/b/c/5.webp", "p/b/c/6.jpg"]),
        (["p/notes.txt"], ["p/notes.txt"]),  # it gets a row with an error
        (["memory://x/y.jpg"], ["memory://x/y.jpg"]),
    ],
)
def test_folders_globs_and_files(arguments: list[str], names: list[str]) -> None:
    assert names_of(*arguments) == names


@pytest.mark.parametrize("argument", ["p", "p/**/*"])
def test_links_to_folders_are_listed_and_not_followed(files: Path, argument: str) -> None:
    (files / "p/b/loop").symlink_to(files / "p")
    (files / "p/c.jpg").symlink_to(files / "p/b")
    (files / "p/linked.jpg").symlink_to(files / "p/b/1.jpg")
    (files / "p/itself.jpg").symlink_to(files / "p/itself.jpg")
    file, links = io.BytesIO(), list[str]()
    write_names([argument], file, links)
    names = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [name for name in names if name != "p/notes.txt"] == sorted(
        [*ALL, "p/linked.jpg", "p/itself.jpg"]  # the last one cannot be read
    )
    assert sorted(links) == ["p/b/loop", "p/c.jpg"]


@pytest.mark.parametrize("directory", ["p", "p/**/*.jpg", "p/b/**"])
def test_names_are_sorted_in_chunks_on_disk(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = names_of(directory)
    for size in (1, 2, 3):
        monkeypatch.setattr(inputs, "_SORTED_AT_ONCE", size)
        assert names_of(directory, directory) == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("label,file\n1,x.jpg\n2,y.jpg\n", ["x.jpg", "y.jpg"]),
        ("\ufefffile\r\nx.jpg\r\n\r\nx.jpg\r\n", ["x.jpg", "x.jpg"]),  # one row for each line
        ('Path,label\n"a,b.jpg",1\n', ["a,b.jpg"]),
        ("x.jpg,1\ny.jpg,2\n", ["x.jpg", "y.jpg"]),  # no header: the first column
    ],
)
def test_a_list(text: str, names: list[str]) -> None:
    Path("list.csv").write_text(text, "utf-8")
    assert names_of("list.csv") == names
    assert names_of("list.csv", "p/a") == ["p/a/3.png", *names]


def test_a_parquet_list() -> None:
    table = pyarrow.table({"label": [1, 2], "file": ["x.jpg", "y.jpg"]})
    parquet.write_table(table, "list.parquet")
    assert names_of("list.parquet") == ["x.jpg", "y.jpg"]
    Path("bad.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(InvalidInputError, match=r"bad\.parquet is not a list of paths"):
        names_of("bad.parquet")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("absent", "absent does not exist; give image files, folders, globs in quotes"),
        ("p/*.tif", r"no file matches p/\*\.tif"),
        ("absent/*.jpg", "absent cannot be read: No such file or directory"),
        ("absent.csv", r"absent\.csv cannot be read: No such file or directory"),
        ("short.csv", r"short\.csv, line 3: this line has no column 'file'"),
        ("latin.csv", r"latin\.csv is not a list of paths: 'utf-8' codec"),
        ("empty", "there is no image in empty; the names of images end in .bmp, .gif, .jpeg"),
        ("empty.csv", r"there is no image in empty\.csv"),
    ],
)
def test_an_argument_without_images(argument: str, message: str) -> None:
    Path("empty").mkdir()
    Path("empty.csv").write_text("")
    Path("short.csv").write_text("label,file\n1,x.jpg\n2\n")
    Path("latin.csv").write_bytes("file\nä.jpg\n".encode("latin-1"))
    with pytest.raises(InvalidInputError, match=message):
        names_of(argument)


def test_a_name_that_is_not_text(files: Path) -> None:
    path = os.fsencode(files) + b"/p/a/\xff\n.jpg"
    Path(os.fsdecode(path)).write_bytes(b"content")
    names = names_of("p/a")
    assert names == ["p/a/3.png", "p/a/\udcff\n.jpg"]
    assert read_content(names[1]) == b"content"


def test_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    with fsspec.open("memory://photos/x.jpg", "wb") as file:
        file.write(b"remote")
    assert read_content("memory://photos/x.jpg") == b"remote"
    assert read_content("p/b/1.jpg") == b"p/b/1.jpg"
    os.mkfifo("pipe")
    monkeypatch.setattr(inputs, "MAX_BYTES", 8)
    for name, message in {
        "absent": "it cannot be read: No such file or directory",
        "p": "it is not a file",
        "pipe": "it is not a file",
        "p/b/1.jpg": "it has more than 8 bytes",
        "memory://photos/absent.jpg": "it cannot be read: ",
        "nosuch://x": "it cannot be read: Protocol not known: nosuch",
        "zero\0": "it cannot be read: .*embedded null",
    }.items():
        with pytest.raises(ServeError, match=message):
            read_content(name)


def test_the_file_of_names_is_json_lines() -> None:
    file = io.BytesIO()
    write_names(["p/a"], file, [])
    assert json.loads(file.getvalue()) == "p/a/3.png"
