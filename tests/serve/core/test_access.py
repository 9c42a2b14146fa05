"""Who may do what."""

import ast
import hmac
from pathlib import Path

import pytest

from keras_cnns_serve.core import access, watched_files
from keras_cnns_serve.core.access import Access, Role
from keras_cnns_serve.errors import ConfigError, ForbiddenError, UnauthenticatedError

PREDICTION, OLD, ADMINISTRATION = "p" * 16, "o" * 32, "a" * 32


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    prediction, administration = tmp_path / "prediction", tmp_path / "administration"
    prediction.write_text(f"{PREDICTION}\n{OLD}\n")
    administration.write_text(ADMINISTRATION)
    return prediction, administration


def test_each_role_has_its_tokens(files: tuple[Path, Path]) -> None:
    both = Access(*files)
    for token in (PREDICTION, OLD, ADMINISTRATION):
        both.check(Role.PREDICTION, f"Bearer {token}")
    for header in (f"bearer  {ADMINISTRATION} ", f"BEARER {ADMINISTRATION}"):
        both.check(Role.ADMINISTRATION, header)
    for token in (PREDICTION, OLD):
        with pytest.raises(ForbiddenError, match="this token only permits predictions"):
            both.check(Role.ADMINISTRATION, f"Bearer {token}")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        PREDICTION,
        f"Basic {PREDICTION}",
        f"Bearer {PREDICTION} {PREDICTION}",
        f"Bearer {PREDICTION[:-1]}",
        f"Bearer {PREDICTION}p",
        "Bearer é" * 9,
        f"Bearer{PREDICTION}",
        f"Bearer\t{PREDICTION}",
        f" Bearer {PREDICTION}",
        f"Bearer {PREDICTION}\n",
        f"Bearer {PREDICTION},Bearer {PREDICTION}",
        f"Bearer \u017f{PREDICTION[1:]}",
    ],
)
@pytest.mark.parametrize("role", Role)
def test_other_headers_are_refused(
    files: tuple[Path, Path], role: Role, header: str | None
) -> None:
    with pytest.raises(UnauthenticatedError, match="Authorization: Bearer TOKEN"):
        Access(*files).check(role, header)


@pytest.mark.parametrize(
    "token",
    [
        "x" * 32,
        "o" * 31 + "x",
        "x" + "o" * 31,
        "o" * 31,
        "o" * 33,
        "x",
        "x" * 60_000,
        "\xe9" * 32,
        "",
    ],
    ids=["wrong", "last", "first", "short", "long", "one", "60 KB", "not ASCII", "empty"],
)
def test_a_wrong_token_is_compared_with_each_token_in_full(
    files: tuple[Path, Path], token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def observed(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second)))
        return compare(first, second)

    both = Access(*files)
    monkeypatch.setattr(hmac, "compare_digest", observed)
    with pytest.raises(UnauthenticatedError):
        both.check(Role.PREDICTION, f"Bearer {token}")
    assert compared == 3 * [(32, 32)]  # two tokens for predictions, one for administration
    for right in (PREDICTION, OLD):  # the first in the file, and the last
        compared.clear()
        both.check(Role.PREDICTION, f"Bearer {right}")
        assert compared == 2 * [(32, 32)]


def test_tokens_are_compared_by_compare_digest_only() -> None:
    """`==` and `in` would end at the first difference. Nor may the search end at a match."""
    module = ast.parse(Path(access.__file__).read_text())
    operators = {
        type(operator)
        for node in ast.walk(module)
        if isinstance(node, ast.Compare)
        for operator in node.ops
    }
    assert operators == {ast.Is, ast.IsNot, ast.Lt}
    calls = [ast.unparse(node.func) for node in ast.walk(module) if isinstance(node, ast.Call)]
    assert calls.count("hmac.compare_digest") == 1
    assert not [call for call in calls if call.endswith(("startswith", "index", "find", "count"))]
    loop = next(
        node
        for node in ast.walk(module)
        if isinstance(node, ast.For) and "compare_digest" in ast.unparse(node)
    )
    assert list(map(ast.unparse, loop.body)) == ["found |= hmac.compare_digest(each, digest)"]


def test_a_role_without_a_file_needs_no_token(files: tuple[Path, Path]) -> None:
    prediction, administration = files
    none, only_predictions = Access(), Access(prediction)
    only_administration = Access(None, administration)
    assert (none.restricted, only_predictions.restricted) == (False, True)
    none.check(Role.PREDICTION, None)
    none.check(Role.ADMINISTRATION, None)
    only_predictions.check(Role.ADMINISTRATION, None)
    only_administration.check(Role.PREDICTION, None)
    with pytest.raises(UnauthenticatedError, match="the token for administration"):
        only_administration.check(Role.ADMINISTRATION, None)


def test_a_file_that_changes_is_read_again(
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watched_files, "POLL_SECONDS", 0.0)
    checks, path = Access(*files), files[0]

    def replace(text: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)

    replace("n" * 16)
    checks.check(Role.PREDICTION, f"Bearer {'n' * 16}")
    with pytest.raises(UnauthenticatedError):
        checks.check(Role.PREDICTION, f"Bearer {OLD}")
    replace("")
    checks.check(Role.PREDICTION, f"Bearer {'n' * 16}")  # the last good ones stay
    path.unlink()
    checks.check(Role.PREDICTION, f"Bearer {'n' * 16}")
    assert "the earlier content of" in caplog.text
    assert "n" * 16 not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("\n", "has no token"),
        ("short", "a token of 5 characters"),
        ("ü" * 16, "not ASCII"),
    ],
)
def test_what_is_wrong_with_a_file_is_reported(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        Access(path)


def test_both_roles_have_tokens_of_their_own(files: tuple[Path, Path]) -> None:
    files[1].write_text(f"{ADMINISTRATION}\n{OLD}")
    with pytest.raises(ConfigError, match="share a token"):
        Access(*files)
