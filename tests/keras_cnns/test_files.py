"""Text files from any editor: a byte order mark, line ends, and what is refused by line number."""

from pathlib import Path

import pytest

from keras_cnns.files import read_labels, read_text

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
