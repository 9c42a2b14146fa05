"""The endpoint that takes encoded images and returns labels with probabilities."""

import asyncio
import re
from functools import lru_cache
from typing import Any

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from . import errors
from .asgi import FastRoute, Reply, Request
from .dataplane import Dataplane, ScoredLabel, best_labels
from .http_errors import failed
from .json_tensor import dumps
from .rest import TARGET, deadline_of, server_timing, target_of

MAX_FILES = 64  # images in one form


class ImageRest:
    """The endpoint `:classify-image`.

    Args:
        dataplane: what answers.
        timeout: seconds that a request may take, if it does not say.
    """

    def __init__(self, dataplane: Dataplane, timeout: float | None = None) -> None:
        self._dataplane = dataplane
        self._timeout = timeout

    def fast_routes(self) -> list[FastRoute]:
        """What is asked most."""
        pattern = re.compile(f"{TARGET}:classify-image", re.IGNORECASE)
        return [FastRoute("POST", pattern, self.classify, failed)]

    async def classify(self, request: Request) -> Reply:
        """POST ...:classify-image?top_k=5: encoded images in, labels with probabilities out.

        With ?cam=1 and one image: the image as a PNG, what decided its class in colour.
        """
        target = target_of(request.path.groupdict())
        source = self._dataplane.metadata(target)  # before the body, which may be long
        top_k = _top_k(request.query("top_k"))
        cam = request.query("cam") in ("1", "true")
        if cam and "cam" not in (output.name for output in source.manifest.outputs):
            raise errors.InvalidInputError(
                f"{source.name}/{source.version} has no class activation map; export it with the "
                "output cam"
            )
        deadline = deadline_of(request, self._timeout)
        contents = await _images(request)
        if cam and len(contents) != 1:
            raise errors.InvalidInputError(f"cam=1 takes one image, not {len(contents)}")
        wanted = ("probabilities", "cam") if cam else ("probabilities",)
        with request.watched():
            prediction = await self._dataplane.predict_bytes(
                target, contents, outputs=wanted, deadline=deadline
            )
        timing = server_timing(prediction.timing)
        if cam:
            from .cam import overlay

            maps = prediction.outputs["cam"]
            png = await asyncio.to_thread(
                overlay, contents[0], maps[0], source.manifest.preprocessing
            )
            return Reply(png, media_type=b"image/png", headers=[timing])
        best = best_labels(prediction, top_k)
        answer = {"predictions": [{"labels": list(map(_label, labels))} for labels in best]}
        return Reply(dumps(answer), headers=[timing])


async def _images(request: Request) -> list[bytes]:
    """The encoded images of a body: all of it, or every file of a multipart form."""
    body = await request.body()
    # Only multipart is a form: curl labels any body as x-www-form-urlencoded.
    kind = request.header(b"content-type") or ""
    if not kind.lower().startswith("multipart/form-data"):
        return [body]

    async def stream() -> Any:
        yield body

    headers = Headers(scope=request.scope)
    try:
        form = await MultiPartParser(headers, stream(), max_files=MAX_FILES).parse()
    except (MultiPartException, HTTPException) as error:
        raise errors.InvalidInputError(f"the form is damaged: {_said(error)}") from error
    except KeyError as error:
        raise errors.InvalidInputError("the form's content type has no boundary") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise errors.InvalidInputError("the form has no file; with curl: -F image=@image.png")
        return [await file.read() for file in files]
    finally:
        await form.close()


def _said(error: MultiPartException | HTTPException) -> str:
    return error.message if isinstance(error, MultiPartException) else error.detail


@lru_cache
def _top_k(text: str | None) -> int:
    text = "5" if text is None else text
    if not re.fullmatch("[0-9]{1,9}", text):
        raise errors.InvalidInputError(f"top_k must be an integer from 1, not {text!r:.40}")
    if int(text) < 1:
        raise errors.InvalidInputError(f"top_k must be at least 1, not {text}")
    return int(text)


def _label(scored: ScoredLabel) -> dict[str, Any]:
    # As float32, which is written with the same digits as in the answer to :predict.
    return {"label": scored.label, "probability": np.float32(scored.probability)}
