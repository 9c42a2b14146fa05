"""The demo: run the commands that a user would type, from training to a prediction over HTTP.

The demo runs the command line in subprocesses, and imports neither keras_cnns_export nor
keras_cnns_serve.
"""

import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from keras_cnns.quiet import quiet_stderr

_RECIPES = ("digits-resnet20", "digits-googlenet")
_COMMAND = (sys.executable, "-m", "keras_cnns.cli")
_TIMEOUT = 60  # maximum number of seconds for a request, and for the server to stop
_TIMED_REQUESTS = 50


def run_demo(runs: Path, models: Path) -> None:
    """Train, export and serve both models, and print their results.

    Args:
        runs: the folder of the run directories. Each model gets a new run directory; earlier ones
            stay.
        models: the model repository. Each model gets a new version.

    Raises:
        RuntimeError: one of the commands failed.
    """
    start = time.perf_counter()
    finished = {}
    for recipe in _RECIPES:
        run = next_free(runs / recipe)
        command("train", "--recipe", recipe, "--run", str(run))
        command("export", str(run), "--to", str(models / recipe))
        finished[recipe] = run

    image, label = write_held_out_image(runs / "held-out.png")
    milliseconds = {}
    with serving(models) as address:
        for recipe in _RECIPES:
            url = f"{address}/v1/models/{recipe}:classify-image"
            answer = _post(url, image.read_bytes())
            print(f"\n$ curl --data-binary @{image} {url}")
            print(f"{recipe} on a test image of the class {label!r}:")
            for entry in answer["predictions"][0]["labels"]:
                print(f"  {entry['label']:>3} {entry['probability']:8.3%}")
            milliseconds[recipe] = _time_requests(url, image.read_bytes())

    _print_table(finished, models, milliseconds)
    print(f"The demo took {time.perf_counter() - start:.0f} s.")
    print(
        f"Serve the models again, until Ctrl-C, with: {program()} serve {shlex.quote(str(models))}"
    )


def program() -> str:
    """Return the command that runs `keras-cnns` in the same way as this process was started."""
    called = sys.argv[0]
    found = shutil.which("keras-cnns")
    if found and Path(found).resolve() == Path(called).resolve():
        return "keras-cnns"
    return shlex.join(_COMMAND if called.endswith(".py") else (called,))


def next_free(path: Path) -> Path:
    """Return the first path that does not exist: `path`, or else path-2, path-3, ..."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def command(*arguments: str) -> None:
    """Print and run `keras-cnns` with these arguments.

    Raises:
        RuntimeError: the command failed.
    """
    print(f"\n$ keras-cnns {shlex.join(arguments)}", flush=True)
    status = subprocess.run([*_COMMAND, *arguments], check=False).returncode
    if status:
        raise RuntimeError(f"`keras-cnns {arguments[0]}` failed with status {status}")


def write_held_out_image(path: Path) -> tuple[Path, str]:
    """Write the first image of the test split as PNG; return its path and its true label."""
    with quiet_stderr():
        from keras_cnns.data import load_split, read_labels
        from keras_cnns.recipes import load_recipe

    data = load_recipe(_RECIPES[0]).data
    images, labels = next(iter(load_split(data, data.test_split, batch_size=1)))
    Image.fromarray(images.numpy()[0, :, :, 0]).save(path)
    return path, read_labels(data)[int(labels[0])]


@contextmanager
def serving(models: Path) -> Iterator[str]:
    """Serve the models on a free port of this machine, and yield the server's address.

    Raises:
        RuntimeError: the server ended before it was ready.
    """
    print(f"\n$ keras-cnns serve {models} --port 0", flush=True)
    arguments = [*_COMMAND, "serve", str(models), "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                print(f"  {line}", end="")
                if ready := re.search(r"serving on (http://\S+)", line):
                    yield ready[1].rstrip("/")
                    break
            else:
                raise RuntimeError("the server ended before it was ready")
        finally:
            server.terminate()
            server.communicate(timeout=_TIMEOUT)


def _post(url: str, body: bytes) -> Any:
    """Post an image and return the parsed response."""
    request = urllib.request.Request(url, body, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        return json.load(response)


def _time_requests(url: str, body: bytes) -> float:
    """Return the median time from posting an image to the end of the response, in milliseconds."""
    seconds = []
    for _ in range(_TIMED_REQUESTS):
        start = time.perf_counter()
        _post(url, body)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000


def _print_table(runs: dict[str, Path], models: Path, milliseconds: dict[str, float]) -> None:
    """Print each model's size, accuracy, training time, latency, and difference between formats."""
    table = Table(
        caption="largest difference: between the probabilities of Keras and of an exported format\n"
        "ms per image: the median time from a posted PNG to its answer over HTTP"
    )
    table.add_column("model", no_wrap=True)
    for column in (
        "parameters",
        "test\naccuracy",
        "training\nseconds",
        "largest\ndifference",
        "ms per\nimage",
    ):
        table.add_column(column, justify="right")
    for name, run in runs.items():
        version = max((models / name).glob("[1-9]*"), key=lambda path: int(path.name))
        exported = json.loads((version / "model.json").read_text("utf-8"))
        results = json.loads((run / "results.json").read_text("utf-8"))
        differences = [
            parity["largest_difference"] for parity in exported["parity"]["formats"].values()
        ]
        table.add_row(
            name,
            f"{exported['model']['parameters']:,}",
            f"{exported['metrics']['accuracy']:.2%}",
            f"{results['training_seconds']:.0f}",
            f"{max(differences):.1e}",
            f"{milliseconds[name]:.1f}",
        )
    Console().print(table)
