"""Access control by bearer tokens, for predictions and for administration."""

import hashlib
import hmac
import re
from enum import Enum
from pathlib import Path

from keras_cnns_serve.errors import ConfigError, ForbiddenError, UnauthenticatedError

from .watched_files import WatchedFiles

_MIN_LENGTH = 16  # minimum number of characters of a token


class Role(Enum):
    """The kind of a request; the value of a member describes the token that such requests need."""

    PREDICTION = "the token for predictions"
    ADMINISTRATION = "the token for administration"


class Access:
    """Check the tokens of requests; a role without a token file needs no token.

    The tokens for administration also permit predictions. The files are read again when they
    change.

    Args:
        prediction: a file with the tokens for predictions, one on each line.
        administration: a file with the tokens for administration.

    Raises:
        ConfigError: a file cannot be read, or has no token or an invalid one; or both files share a
            token.
    """

    def __init__(
        self, prediction: Path | str | None = None, administration: Path | str | None = None
    ) -> None:
        self._prediction = None if prediction is None else _Tokens(Path(prediction))
        self._administration = None if administration is None else _Tokens(Path(administration))
        first, second = self._prediction, self._administration
        if first is not None and second is not None and first.overlap(second):
            raise ConfigError(
                f"{prediction} and {administration} share a token: clients that have it for "
                "predictions could also load and unload models; use different tokens"
            )

    @property
    def restricted(self) -> bool:
        """Return whether requests that are not for administration need a token."""
        return self._prediction is not None

    def check(self, role: Role, authorization: str | None) -> None:
        """Raise an error unless this header permits a request of this role.

        Raises:
            UnauthenticatedError: a token is needed, and the header has no valid one.
            ForbiddenError: the request is for administration, but the token is for predictions.
        """
        predicts, administers = self._prediction, self._administration
        needed = administers if role is Role.ADMINISTRATION else predicts
        if needed is None:
            return
        token = _token(authorization)
        if needed.has(token) or (administers is not None and administers.has(token)):
            return
        if role is Role.ADMINISTRATION and predicts is not None and predicts.has(token):
            raise ForbiddenError(
                "this token only permits predictions; administration needs another token"
            )
        raise UnauthenticatedError(
            f"this request needs {role.value} in the header Authorization: Bearer TOKEN"
        )


class _Tokens:
    """The digests of the tokens in a file.

    All digests have the same length, so the time of a comparison does not depend on the length of a
    token. A long token in a request is hashed once instead of being compared with each token of the
    file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = WatchedFiles([path], self._read_digests)

    def has(self, token: bytes) -> bool:
        """Return whether the file has `token`; the time is independent of its characters."""
        digest = _digest(token)
        found = False
        for each in self._file.current():
            found |= hmac.compare_digest(each, digest)
        return found

    def overlap(self, other: "_Tokens") -> bool:
        """Return whether both files have a token in common."""
        return bool(set(self._file.current()) & set(other._file.current()))

    def _read_digests(self) -> list[bytes]:
        try:
            tokens = self._path.read_bytes().split()
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror}") from error
        if not tokens:
            raise ConfigError(f"{self._path} has no token")
        for token in tokens:
            if not token.isascii():
                raise ConfigError(f"{self._path} has a token that is not ASCII")
            if len(token) < _MIN_LENGTH:
                raise ConfigError(
                    f"{self._path} has a token of {len(token)} characters; a token needs at least "
                    f"{_MIN_LENGTH}, such as the output of: openssl rand -hex 32"
                )
        return [_digest(token) for token in tokens]


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _token(authorization: str | None) -> bytes:
    match = re.fullmatch(r"bearer +(\S+) *", authorization or "", re.IGNORECASE)
    return match[1].encode() if match else b""
