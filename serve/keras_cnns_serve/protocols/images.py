"""The endpoint `:classify-image`, which returns labels and probabilities for encoded images."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cnns_serve.core.json_text import dumps
from keras_cnns_serve.core.prediction import ScoredLabel, best_labels, target_of
from keras_cnns_serve.core.thresholds import is_unknown, threshold_of
from keras_cnns_serve.errors import InvalidInputError
from keras_cnns_serve.images.activation_maps import OPACITY
from keras_cnns_serve.protocols.forms import files_of
from keras_cnns_serve.protocols.parsing import parse
from keras_cnns_serve.protocols.requests import RestEndpoints, server_timing
from keras_cnns_serve.protocols.tfserving.rest import TARGET
from keras_cnns_serve.transport.http.asgi import FastRoute, Reply, Request
from keras_cnns_serve.transport.http.errors import error_reply


class ImageEndpoint(RestEndpoints):
    """The endpoint `:classify-image`."""

    def fast_routes(self) -> list[FastRoute]:
        """Return the route."""
        pattern = re.compile(f"{TARGET}:classify-image", re.IGNORECASE)
        return [FastRoute("POST", pattern, self.classify, error_reply)]

    async def classify(self, request: Request) -> Reply:
        """Answer POST ...:classify-image?top_k=5 with labels and probabilities of the images.

        With ?cam=1 and one image, answer with a PNG that shows the image and its class activation
        map over it. ?opacity= sets the opacity of the map, from 0 to 1 (0.5 by default).

        ?min_probability=0.9 sets a threshold, and ?min_accuracy=0.98 selects one of the thresholds
        in model.json. An image whose highest probability is below the threshold is reported as
        unknown.
        """
        target = target_of(**request.path.groupdict())
        source = self._dataplane.metadata(target)  # raises an error before the body is received
        top_k = _top_k(request.query("top_k"))
        cam = request.query("cam") in ("1", "true")
        opacity = _opacity(request.query("opacity"))
        wanted = {name: request.query(name) for name in ("min_probability", "min_accuracy")}
        threshold_of(source, **wanted)  # raises an error before the body is received
        if cam and "cam" not in (output.name for output in source.manifest.outputs):
            raise InvalidInputError(
                f"{source.name}/{source.version} has no class activation map; export the model "
                "with the output cam"
            )
        deadline = self._deadline(request)
        contents = await _images(request, deadline)
        if cam and len(contents) != 1:
            raise InvalidInputError(f"cam=1 needs one image, not {len(contents)}")
        outputs = ("probabilities", "cam") if cam else ("probabilities",)
        with request.cancelled_on_disconnect():
            prediction = await self._dataplane.predict_bytes(
                target, contents, outputs=outputs, deadline=deadline
            )
        timing = server_timing(prediction.timing)
        if cam:
            png = await self._dataplane.draw_activation_map(
                prediction, contents[0], opacity, deadline=deadline
            )
            return Reply(png, media_type=b"image/png", headers=[timing])
        best = best_labels(prediction, top_k)
        answer: dict[str, Any] = {
            "predictions": [{"labels": list(map(_label, labels))} for labels in best]
        }
        threshold = threshold_of(prediction.source, **wanted)
        if threshold is not None:
            answer = {
                "predictions": [_with_threshold(labels, threshold) for labels in best],
                "min_probability": np.float32(threshold),
            }
        return Reply(dumps(answer), headers=[timing])


async def _images(request: Request, deadline: float | None) -> list[bytes]:
    """Return the encoded images in a body: the body itself, or the files of a multipart form."""
    body = await request.body(deadline)
    # The type x-www-form-urlencoded does not mean a form here, because curl by default sends this
    # type with any body.
    kind = request.header(b"content-type") or ""
    if not kind.lower().startswith("multipart/form-data"):
        return [body]
    return await parse(len(body), deadline, files_of, body, kind)


def _top_k(text: str | None) -> int:
    if text is None:
        return 5
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InvalidInputError(f"top_k must be an integer of at least 1, not {text!r:.40}")
    if int(text) < 1:
        raise InvalidInputError(f"top_k must be at least 1, not {text}")
    return int(text)


def _opacity(text: str | None) -> float:
    if text is None:
        return OPACITY
    if not re.fullmatch(r"0(\.[0-9]{1,9})?|1(\.0{1,9})?", text):
        raise InvalidInputError(f"opacity must be a number from 0 to 1, not {text!r:.40}")
    return float(text)


def _with_threshold(labels: Sequence[ScoredLabel], threshold: float) -> dict[str, Any]:
    """Return the JSON for an image; its label is null if the image is unknown."""
    unknown = is_unknown(labels[0].probability, threshold)
    return {
        "label": None if unknown else labels[0].label,
        "unknown": unknown,
        "labels": list(map(_label, labels)),
    }


def _label(scored: ScoredLabel) -> dict[str, Any]:
    # Convert to float32, so that the probability has the same digits as in the response to
    # :predict.
    return {"label": scored.label, "probability": np.float32(scored.probability)}
