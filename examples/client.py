"""Classify image files with a running server, and retry when it is busy.

    keras-cnns serve models
    python examples/client.py seven.png --model digits-resnet20

A server that has too much to do answers 429, one that stops or reloads a model 503. The header
Retry-After has the number of seconds after which it expects to have room.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import httpx

RETRIED = (429, 503)
ATTEMPTS = 5
MAX_WAIT = 30.0  # seconds


def classify(client: httpx.Client, model: str, image: bytes) -> list[dict]:
    """Return the most probable labels of an encoded image, each with its probability."""
    for attempt in range(1, ATTEMPTS + 1):
        response = client.post(f"/v1/models/{model}:classify-image", content=image)
        if response.status_code not in RETRIED or attempt == ATTEMPTS:
            break
        seconds = float(response.headers.get("Retry-After", 2**attempt / 4))
        # The random part keeps many clients from returning at the same moment.
        time.sleep(min(seconds, MAX_WAIT) * random.uniform(1, 1.25))
    if response.is_error:
        message = response.json()["error"] if "json" in response.headers["content-type"] else ""
        raise SystemExit(f"the server answered {response.status_code}: {message}")
    return response.json()["predictions"][0]["labels"]


parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
parser.add_argument("images", nargs="+", type=Path, help="JPEG, PNG, WebP, BMP or GIF files")
parser.add_argument("--model", required=True, help="the name of a model that the server has")
parser.add_argument("--server", default="http://127.0.0.1:8501", help="the server's address")
options = parser.parse_args()

# One client for all images: it keeps its connection open between requests.
with httpx.Client(base_url=options.server, timeout=35) as client:
    for path in options.images:
        try:
            best, *_ = classify(client, options.model, path.read_bytes())
        except httpx.ConnectError as error:
            sys.exit(f"no server answers at {options.server}: {error}")
        print(f"{path}: {best['label']} {best['probability']:.2%}")
