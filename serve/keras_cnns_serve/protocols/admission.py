"""Authorize requests: which paths and methods need which token."""

import re
from collections.abc import Iterable

from starlette.types import Scope

from keras_cnns_serve.core.access import Access, Role
from keras_cnns_serve.errors import ForbiddenError, InvalidInputError, ServeError
from keras_cnns_serve.protocols.page import Page
from keras_cnns_serve.transport.http.asgi import Reply
from keras_cnns_serve.transport.http.errors import error_reply

_HEALTH = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
_METRICS = {"/metrics", "/monitoring/prometheus/metrics"}
# A prefix, so that it covers all routes of administration.
_ADMINISTRATION = "/v2/repository/models/"
_GRPC_HEALTH = re.compile(
    r"/grpc\.health\.v1\.Health/.*|/inference\.GRPCInferenceService/Server(Live|Ready)"
)
_GRPC_ADMINISTRATION = {
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
}


class Admission:
    """Authorize or reject requests.

    Args:
        access: checks tokens.
        open_metrics: whether the metrics need no token.
        page: the page for browsers, whose files need no token, or None.
    """

    def __init__(
        self, access: Access, open_metrics: bool = False, page: Page | None = None
    ) -> None:
        self._access = access
        self._open = _HEALTH | _METRICS if open_metrics else _HEALTH
        self._page = page

    def authorize_http(self, scope: Scope) -> Reply | None:
        """Return the error response if an HTTP request is rejected, or else None."""
        path = scope["path"]
        administers = path.startswith(_ADMINISTRATION)
        if path in self._open or not (administers or self._access.restricted):
            return None
        if self._page is not None and self._page.is_for(scope):
            return None
        headers = dict(reversed(scope["headers"]))  # of a repeated header, the first value counts
        tokens = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            if administers:
                _refuse_other_sites(headers)
            role = Role.ADMINISTRATION if administers else Role.PREDICTION
            self._access.check(role, _only([each.decode("latin-1") for each in tokens]))
        except ServeError as error:
            return error_reply(error)
        return None

    def authorize_grpc(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Raise an error if a call is not permitted.

        Raises:
            UnauthenticatedError, ForbiddenError: as for `Access.check`.
            InvalidInputError: the metadata has more than one entry `authorization`.
        """
        if method in _GRPC_ADMINISTRATION:
            role = Role.ADMINISTRATION
        elif self._access.restricted and not _GRPC_HEALTH.fullmatch(method):
            role = Role.PREDICTION
        else:
            return
        tokens = [str(value) for name, value in metadata if name == "authorization"]
        self._access.check(role, _only(tokens))


def _only(tokens: list[str]) -> str | None:
    """Return the only value of the header Authorization, or None if there is no such header.

    If several values were permitted, a proxy in front of the server might check a different value
    than the server.

    Raises:
        InvalidInputError: the header has several values.
    """
    if len(tokens) > 1:
        raise InvalidInputError("the request has more than one header Authorization")
    return tokens[0] if tokens else None


def _refuse_other_sites(headers: dict[bytes, bytes]) -> None:
    """Raise ForbiddenError if a web page of another site sent the request.

    A browser can send such a request without the user's knowledge, and the user may have access to
    the server, for instance because both are in the same network.
    """
    site = headers.get(b"sec-fetch-site")
    origin = headers.get(b"origin")
    if site is not None:
        foreign = site not in (b"same-origin", b"none")
    else:
        foreign = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    if foreign:
        raise ForbiddenError("web pages of other sites may not request changes of the models")
