"""Which requests are admitted: what each path and method needs, and what tokens permit."""

import re
from collections.abc import Iterable

from starlette.types import Scope

from keras_cnns_serve.core.access import Access, Role
from keras_cnns_serve.errors import ForbiddenError, ServeError
from keras_cnns_serve.protocols.page import Page
from keras_cnns_serve.transport.http.asgi import Reply
from keras_cnns_serve.transport.http.errors import failed

_HEALTH = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
_METRICS = {"/metrics", "/monitoring/prometheus/metrics"}
_ADMINISTRATION = "/v2/repository/models/"  # and whatever follows, so that no route is missed
_GRPC_HEALTH = re.compile(
    r"/grpc\.health\.v1\.Health/.*|/inference\.GRPCInferenceService/Server(Live|Ready)"
)
_GRPC_ADMINISTRATION = {
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
}


class Admission:
    """Admit a request, or refuse it.

    Args:
        access: Checks tokens.
        open_metrics: Whether the pages of metrics need no token.
        page: The page for browsers, whose files need no token, or None.
    """

    def __init__(
        self, access: Access, open_metrics: bool = False, page: Page | None = None
    ) -> None:
        self._access = access
        self._open = _HEALTH | _METRICS if open_metrics else _HEALTH
        self._page = page

    def over_http(self, scope: Scope) -> Reply | None:
        """Return the answer to an HTTP request that is refused, or None."""
        path = scope["path"]
        administers = path.startswith(_ADMINISTRATION)
        if path in self._open or not (administers or self._access.restricted):
            return None
        if self._page is not None and self._page.is_for(scope):
            return None
        headers = dict(reversed(scope["headers"]))  # of one that is repeated the first counts
        try:
            if administers:
                _refuse_other_sites(headers)
            role = Role.ADMINISTRATION if administers else Role.PREDICTION
            authorization = headers.get(b"authorization", b"").decode("latin-1")
            self._access.check(role, authorization)
        except ServeError as error:
            return failed(error)
        return None

    def over_grpc(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Return if a call is admitted.

        Raises:
            UnauthenticatedError, ForbiddenError: As `Access.check` does.
        """
        if method in _GRPC_ADMINISTRATION:
            role = Role.ADMINISTRATION
        elif self._access.restricted and not _GRPC_HEALTH.fullmatch(method):
            role = Role.PREDICTION
        else:
            return
        self._access.check(role, str(dict(metadata).get("authorization", "")))


def _refuse_other_sites(headers: dict[bytes, bytes]) -> None:
    """Raise ForbiddenError if a page of another site sent the request.

    A browser sends such a request with whatever permits its user, such as being in this network.
    """
    site = headers.get(b"sec-fetch-site")
    origin = headers.get(b"origin")
    if site is not None:
        foreign = site not in (b"same-origin", b"none")
    else:
        foreign = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    if foreign:
        raise ForbiddenError("administration refuses requests that come from pages of other sites")
