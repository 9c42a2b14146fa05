"""Classify image files with a running server, and repeat a request if the server is busy.

    keras-cnns serve models
    python examples/client.py seven.png --model digits-resnet20

The server returns the status 429 if it has too many requests, and 503 if it is stopping or reloads
the model. The header Retry-After says when the client should repeat the request.
"""

import argparse
import random
import sys
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

RETRIED = (429, 503)
ATTEMPTS, MAX_WAIT = 5, 30.0  # the wait is in seconds


def wait_seconds(retry_after: str, default: float) -> float:
    """Return the seconds of a header Retry-After, a number or a date; without it, `default`."""
    for read in (float, lambda date: parsedate_to_datetime(date).timestamp() - time.time()):
        with suppress(ValueError):
            return max(0.0, read(retry_after))
    return default


def classify(client: httpx.Client, model: str, image: bytes) -> list[dict]:
    """Return the most probable labels of an encoded image, each with its probability."""
    for attempt in range(1, ATTEMPTS + 1):
        response = client.post(f"/v1/models/{model}:classify-image", content=image)
        if response.status_code not in RETRIED or attempt == ATTEMPTS:
            break
        seconds = wait_seconds(response.headers.get("Retry-After", ""), 2**attempt / 4)
        # The random factor prevents many clients from repeating their requests at the same moment.
        time.sleep(min(seconds, MAX_WAIT) * random.uniform(1, 1.25))
    if response.is_error:
        message = response.json()["error"] if "json" in response.headers["content-type"] else ""
        raise SystemExit(f"the server returned the status {response.status_code}: {message}")
    return response.json()["predictions"][0]["labels"]


parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
parser.add_argument("images", nargs="+", type=Path, help="JPEG, PNG, WebP, BMP or GIF files")
parser.add_argument("--model", required=True, help="the name of a model on the server")
parser.add_argument("--server", default="http://127.0.0.1:8501", help="the server's address")
options = parser.parse_args()

# One client for all images: it keeps its connection open between requests.
with httpx.Client(base_url=options.server, timeout=35) as client:
    for path in options.images:
        try:
            best, *_ = classify(client, options.model, path.read_bytes())
        except httpx.ConnectError as error:
            sys.exit(f"cannot connect to a server at {options.server}: {error}")
        print(f"{path}: {best['label']} {best['probability']:.2%}")
