"""Text files from any editor, and files that cannot be written."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keras_cnns import files
from keras_cnns.files import describe_os_error, read_labels, read_text, write_text
from keras_cnns.runs.answers import Answer, AnswerFile

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"cat\ndog", ("cat", "dog")),
        (BOM + b"cat\r\ndog\r\nbird\r\n", ("cat", "dog", "bird")),
        (b"cat\rdog\r", ("cat", "dog")),
        ("caf\u00e9\ntwo\u2028parts\n".encode(), ("caf\u00e9", "two\u2028parts")),
    ],
)
def test_labels_are_lines(content: bytes, labels: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_labels(tmp_path / "labels.txt") == labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n\ndog\n", r"labels\.txt: line 2 is blank"),
        (BOM + b"cat\r\n \r\ndog\r\n", r"labels\.txt: line 2 is blank"),
        (b"cat\ndog\n\n", r"labels\.txt: line 3 is blank"),
        (b"", r"labels\.txt: line 1 is blank"),
        (b"cat\ndog\r\ncat\n", r"labels\.txt: line 3 repeats the label 'cat' of line 1"),
        ("cat\ndog".encode("utf-16"), r"labels\.txt is in UTF-16; save it as UTF-8 \(Windows"),
        (b"caf\xe9\n", r"labels\.txt is not in UTF-8: .*; save it as UTF-8"),
    ],
)
def test_other_lines_and_encodings_are_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "labels.txt")


def test_text_has_no_byte_order_mark_and_one_kind_of_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(BOM + b"a = 1\r\nb = 2\r")
    assert read_text(tmp_path / "a.toml") == "a = 1\nb = 2\n"


@contextmanager
def full() -> Iterator[None]:
    """A limit of the size of files takes the place of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:  # pytest's own output may go to a file
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_of_a_write_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(OSError, match="File too large") as caught, full():
        write_text(path, "x" * 100)
    assert describe_os_error(caught.value) == f"cannot write {path}: File too large"
    assert not list(tmp_path.iterdir())


WRITE = """
import runpy, sys
from pathlib import Path
write_text = runpy.run_path(sys.argv[1])["write_text"]  # alone, without the packages around it
for _ in range(300):
    write_text(Path(sys.argv[2]), sys.argv[3] * 10_000, is_shared=True)
"""


def test_two_processes_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("a" * 10_000)
    commands = [[sys.executable, "-c", WRITE, files.__file__, str(path), text] for text in "ab"]
    writers = [subprocess.Popen(command) for command in commands]
    while any(writer.poll() is None for writer in writers):
        assert len(path.read_text()) == 10_000
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_rows_that_cannot_be_written_name_their_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with (
        pytest.raises(OSError, match=rf"^cannot write {path}: File too large; .+ again$"),
        full(),
        AnswerFile(path, 1) as file,
    ):
        file.append([Answer("a.png", (("cat", 0.5),))])
