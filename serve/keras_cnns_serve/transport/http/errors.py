"""Error responses: the status codes of errors, and bodies as in TensorFlow Serving."""

import math

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from keras_cnns_serve import errors
from keras_cnns_serve.core.json_text import dumps

from .asgi import Reply
from .body import Disconnected

STATUS_CODES: dict[type[errors.ServeError], int] = {
    errors.InvalidInputError: 400,
    errors.SignatureError: 400,
    errors.ConfigError: 400,
    errors.DamagedImageError: 400,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.ModelNotFoundError: 404,
    errors.TooSlowError: 408,
    errors.InputTooLargeError: 413,
    errors.ImageTooLargeError: 413,
    errors.UnsupportedEncodingError: 415,
    errors.UnsupportedImageError: 415,
    errors.QueueFullError: 429,
    errors.ModelUnavailableError: 503,
    errors.DeadlineExceededError: 504,
}


def error_reply(error: Exception) -> Reply:
    """Return the response for an error."""
    codes = (STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)
    status = next(codes, 500)
    headers = []
    if isinstance(error, errors.QueueFullError):
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after)))
    if isinstance(error, errors.UnauthenticatedError):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, errors.TooSlowError):
        headers.append((b"connection", b"close"))
    message = errors.UNEXPECTED if status == 500 else str(error)
    return Reply(dumps({"error": message}), status, headers=headers)


def json_response(body: bytes, status: int = 200) -> Response:
    """Return JSON as a Starlette response."""
    return Response(body, status, media_type="application/json")


async def _serve_error(request: Request, error: Exception) -> Response:
    """Return the response for a `ServeError`."""
    reply = error_reply(error)
    response = json_response(reply.body, reply.status)
    response.raw_headers.extend(reply.headers)
    return response


async def _http_error(request: Request, error: Exception) -> Response:
    """Return the response for an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    path: str = request.scope["path"]
    line = f"{request.method} {path:.200}"
    status = error.status_code
    if status == 404 and path.lower().startswith("/v1/"):
        status = 400  # TensorFlow Serving's status
    message = {
        400: f"Malformed request: {line}",
        404: f"Malformed request: {line} is not served here; GET / lists the models",
        405: f"Method Not Allowed: {line}; allowed here: {(error.headers or {}).get('Allow')}",
    }.get(status, error.detail)
    response = json_response(dumps({"error": message}), status)
    response.headers.update(error.headers or {})
    return response


async def _disconnected(request: Request, error: Exception) -> Response:
    """Return a response with the status 499 for the access log; the client has disconnected."""
    return json_response(b"{}", 499)


async def _unexpected(request: Request, error: Exception) -> Response:
    """Return the response for an error of the server."""
    return json_response(dumps({"error": errors.UNEXPECTED}), 500)


HANDLERS = {
    **dict.fromkeys(STATUS_CODES, _serve_error),
    HTTPException: _http_error,
    Disconnected: _disconnected,
    Exception: _unexpected,  # Starlette raises the error again, so that the server logs it
}
