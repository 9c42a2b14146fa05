"""Tables on the terminal."""

import pytest

from keras_cnns.table import print_table


def test_names_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("IMG [edited].jpg", "[/]", "[bold]", ":smile:")
    print_table(("image", "images"), [(name, "1") for name in names], numbers=[1])
    printed = capsys.readouterr().out
    assert [line.rsplit(maxsplit=1)[0].strip() for line in printed.splitlines()[1:]] == list(names)
