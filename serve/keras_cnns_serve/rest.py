"""TensorFlow Serving's REST protocol, and images as bodies. It translates; `dataplane` answers."""

import asyncio
import contextlib
import re
from functools import partial
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import errors
from .dataplane import Dataplane, ModelSummary, ScoredLabel, Target, VersionStatus
from .json_tensor import SIGNATURE, dumps, format_predictions, parse_predict_request
from .manifest import Tensor
from .repository import ModelVersion

MAX_BODY_BYTES = 32 * 2**20
DRAIN_SECONDS = 2  # for the rest of a body that is too long
MAX_FILES = 64  # images in one form
STATUS_CODES: dict[type[errors.ServeError], int] = {
    errors.InvalidInputError: 400,
    errors.SignatureError: 400,
    errors.ConfigError: 400,
    errors.DamagedImageError: 400,
    errors.ForbiddenError: 403,
    errors.ModelNotFoundError: 404,
    errors.InputTooLargeError: 413,
    errors.ImageTooLargeError: 413,
    errors.UnsupportedImageError: 415,
    errors.QueueFullError: 429,
    errors.UnimplementedError: 501,
    errors.ModelUnavailableError: 503,
    errors.DeadlineExceededError: 504,
}
DTYPES = {"uint8": "DT_UINT8", "float32": "DT_FLOAT"}  # TensorFlow's names


class ModelNameConvertor(StringConvertor):
    """A model's name in a path ends at a slash, or at the colon before a verb."""

    regex = "[^/:]+"


register_url_convertor("model", ModelNameConvertor())


class Rest:
    """The endpoints. Parsing, decoding and inference run in threads, never on the event loop.

    Args:
        dataplane: what answers.
    """

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    def routes(self) -> list[Route]:
        """Every path that is served."""
        model = "/v1/models/{model:model}"
        version = model + "/versions/{version}"
        get, post = ["GET"], ["POST"]
        return [
            Route("/", self.home, methods=get),
            Route("/healthz", self.health, methods=get),
            Route("/v1/models", self.models, methods=get),
            *(
                Route(base + path, endpoint, methods=methods)
                for base in (model, version)
                for path, methods, endpoint in [
                    (":predict", post, self.predict),
                    (":classify-image", post, self.classify_image),
                    ("/metadata", get, self.metadata),
                    ("", get, self.status),
                ]
            ),
        ]

    async def home(self, request: Request) -> Response:
        """GET /: what is served, with a command to try for each model."""
        base = str(request.base_url) + "v1/models/"
        models = [
            {
                "name": model.name,
                "classify": f"curl --data-binary @image.png {base}{path}:classify-image",
                "status": base + path,
                "metadata": f"{base}{path}/metadata",
            }
            for model in self._dataplane.models()
            for path in [quote(model.name)]
        ]
        return _json(
            orjson.dumps(
                {"server": "keras-cnns-serve", "models": models},
                option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
            )
        )

    async def health(self, request: Request) -> Response:
        """GET /healthz: 200 while the process answers."""
        return _json(dumps({"status": "ok"}))

    async def models(self, request: Request) -> Response:
        """GET /v1/models: the models that answer."""
        return _json(dumps({"models": [_summary(model) for model in self._dataplane.models()]}))

    async def status(self, request: Request) -> Response:
        """GET /v1/models/{m}[/versions/{v}]: TensorFlow Serving's model_version_status."""
        states = self._dataplane.status(_target(request))
        return _json(dumps({"model_version_status": [_status(state) for state in states]}))

    async def metadata(self, request: Request) -> Response:
        """GET .../metadata: TensorFlow Serving's signature_def."""
        return _json(dumps(_metadata(self._dataplane.metadata(_target(request)))))

    async def predict(self, request: Request) -> Response:
        """POST ...:predict: pixels as JSON in, the named outputs as JSON out."""
        target = _target(request)
        source = self._dataplane.metadata(target)
        body = await request.body()
        parse = partial(parse_predict_request, body, source.manifest.input.name)
        parsed = await asyncio.to_thread(parse)
        prediction = await self._dataplane.predict(target, parsed.inputs)
        return _json(format_predictions(prediction.outputs, parsed.form))

    async def classify_image(self, request: Request) -> Response:
        """POST ...:classify-image?top_k=5: encoded images in, labels with probabilities out."""
        target = _target(request)
        self._dataplane.metadata(target)  # before the body, which may be long
        top_k = _top_k(request)
        contents = await _images(request)
        images = await self._dataplane.classify_images(target, contents, top_k)
        labels = [{"labels": list(map(_label, best))} for best in images]
        return _json(dumps({"predictions": labels}))


def create_app(dataplane: Dataplane, *, max_body_bytes: int = MAX_BODY_BYTES) -> Starlette:
    """The ASGI application.

    Args:
        dataplane: what answers.
        max_body_bytes: a longer body gets 413, at the latest when it has sent that much.
    """
    return Starlette(
        routes=Rest(dataplane).routes(),
        middleware=[Middleware(BodyLimit, max_bytes=max_body_bytes)],
        exception_handlers={
            **dict.fromkeys(STATUS_CODES, _serve_error),
            HTTPException: _http_error,
            ClientDisconnect: _disconnected,
            Exception: _unexpected,  # Starlette raises it again, so that the server logs it
        },
    )


class BodyLimit:
    """ASGI middleware that stops reading a body once it is too long.

    A declared length is refused before anything is read; chunks are counted as they come.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, its body counted."""
        read = 0
        declared = next((v for k, v in scope.get("headers", ()) if k == b"content-length"), b"0")

        async def limited() -> Message:
            nonlocal read
            if int(declared) > self._max_bytes:
                await self._drain(receive)
                raise self._error()
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                await self._drain(receive)
                raise self._error()
            return message

        await self._app(scope, limited, send)

    async def _drain(self, receive: Receive) -> None:
        """Throw away what still comes, for a while: a client that sends cannot read the answer.

        To close with bytes unread resets the connection, and the 413 is lost with it.
        """
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                more = True
                while more and drained < self._max_bytes:
                    message = await receive()
                    drained += len(message.get("body", b""))
                    more = message.get("more_body", False)

    def _error(self) -> errors.InputTooLargeError:
        return errors.InputTooLargeError(f"the body has more than {self._max_bytes:,} bytes")


async def _images(request: Request) -> list[bytes]:
    """The encoded images of a body: all of it, or every file of a multipart form."""
    # Only multipart is a form: curl labels any body as x-www-form-urlencoded.
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return [await request.body()]
    async with request.form(max_files=MAX_FILES) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise errors.InvalidInputError("the form has no file; with curl: -F image=@image.png")
        return [await file.read() for file in files]


def _target(request: Request) -> Target:
    """The model and, where the path has one, the version."""
    name, version = request.path_params["model"], request.path_params.get("version")
    if version is not None and not re.fullmatch("[0-9]{1,19}", version):
        raise errors.ModelNotFoundError(f"a version is an integer, not {version!r:.40}")
    return Target(name, None if version is None else int(version))


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k", "5")
    if not re.fullmatch("[0-9]{1,9}", text):
        raise errors.InvalidInputError(f"top_k must be an integer from 1, not {text!r:.40}")
    return int(text)


def _label(scored: ScoredLabel) -> dict[str, Any]:
    # As float32, which is written with the same digits as in the answer to :predict.
    return {"label": scored.label, "probability": np.float32(scored.probability)}


def _summary(model: ModelSummary) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [str(version) for version in model.versions],
        "input": {
            "name": model.input.name,
            "dtype": model.input.dtype,
            "shape": model.input.shape,
        },
        "outputs": [output.name for output in model.outputs],
        "labels": len(model.labels),
    }


def _status(state: VersionStatus) -> dict[str, Any]:
    return {
        "version": str(state.version),  # protobuf writes int64 as a string
        "state": state.state,
        "status": {"error_code": state.code, "error_message": state.message},
    }


def _metadata(source: ModelVersion) -> dict[str, Any]:
    signature = {
        "inputs": _tensor_infos((source.manifest.input,)),
        "outputs": _tensor_infos(source.manifest.outputs),
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": source.name, "signature_name": "", "version": str(source.version)},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor_infos(tensors: tuple[Tensor, ...]) -> dict[str, Any]:
    return {
        tensor.name: {
            "dtype": DTYPES[tensor.dtype],
            "tensor_shape": {
                "dim": [
                    {"size": str(-1 if size is None else size), "name": ""} for size in tensor.shape
                ],
                "unknown_rank": False,
            },
            "name": tensor.name,
        }
        for tensor in tensors
    }


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    response = _json(dumps({"error": message}), status)
    response.headers.update(headers or {})
    return response


async def _serve_error(request: Request, error: Exception) -> Response:
    code = next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)
    return _error(code, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path:.200}"
    message = {
        404: f"Malformed request: {asked} is not served here; GET / says what is",
        405: f"Method Not Allowed: {asked}; allowed here: {(error.headers or {}).get('Allow')}",
    }.get(error.status_code, error.detail)
    return _error(error.status_code, message, dict(error.headers or {}))


async def _disconnected(request: Request, error: Exception) -> Response:
    return _error(400, "the client hung up before its request was complete")


async def _unexpected(request: Request, error: Exception) -> Response:
    return _error(500, "the server failed to answer; its log says why")
