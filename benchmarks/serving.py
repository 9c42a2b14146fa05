"""The server, compared with LitServe, MLServer, BentoML, Triton, and a loop without a server.

    benchmarks/serving_peers/make_environments.sh   # once: creates an environment for each server
    python benchmarks/serving.py [--quick] [--json FILE] [--cases CASE ...] [--merge]

All servers use the same ONNX file and the same decoder, each with its best settings (in
benchmarks/serving_peers/). In each round, they run one after another, so that only one server runs
at a time. h2load, from Debian's package nghttp2-client, generates the load on the same cores, by
HTTP/1.1 or by gRPC over HTTP/2, with one connection for each request in flight. Before a server is
measured, one of its responses is compared with the predictions of the model. During the load, the
mean length of the responses is compared with the length of this correct response.

A ratio is our number divided by that of the other server. For requests per second, a greater ratio
is better. For milliseconds, seconds and megabytes, a smaller ratio is better. `--merge` adds the
rounds of this run to those in FILE, so that the cases can be measured in several runs:
`--cases jpeg binary grpc photograph-grpc photograph overload rest`.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).with_name("serving_peers")))

from payloads import Content, Payload
from servers import (
    BARE_LOOP,
    HERE,
    MODELS,
    OURS,
    SERVERS,
    Running,
    check,
    content_of,
    environment,
    start,
    variables,
)

# case -> (model, kind of the request, the other servers, numbers of requests in flight)
WORK: dict[str, tuple[str, str, tuple[str, ...], tuple[int, ...]]] = {
    "jpeg": ("resnet20", "image", ("litserve", "mlserver", "bentoml", "triton"), (1, 8, 64)),
    "binary": ("resnet20", "tensor", ("triton",), (1, 8, 64)),
    "grpc": ("resnet20", "grpc", ("triton", "mlserver"), (1, 8, 64)),
    "photograph-grpc": ("resnet50", "image_grpc", (), (8,)),
    "photograph": ("resnet50", "image", ("litserve", "mlserver", "bentoml", "triton"), (1, 8)),
}
LOOPS = {"jpeg", "photograph", "photograph-grpc"}  # the cases in which the bare loop is measured
# The model for the overload. As in typical use, an image costs far more than its rejection.
OVERLOAD = "resnet50"
OVERLOAD_FACTOR = 5  # the offered load, as a multiple of the capacity
OVERLOAD_SECONDS, OVERLOAD_QUICK = 60, 12
# All connections of one h2load send at the same moment. The connections are therefore divided among
# several processes of h2load, whose starts are staggered.
OVERLOAD_CLIENTS = 256  # number of connections
OVERLOAD_LOADS = 16  # number of processes
DEADLINE = 1.0  # seconds
WARM_UP = 1  # seconds

Samples = dict[str, dict[str, list[float]]]  # case -> server -> one number for each round


@dataclass(frozen=True)
class Answers:
    """The responses to the requests of a load."""

    seconds: float  # duration of the load
    milliseconds: dict[int, list[float]]  # HTTP status -> latency of each response

    def per_second(self, status: int = 200) -> float:
        return len(self.milliseconds.get(status, ())) / self.seconds

    def quantile(self, part: float, status: int = 200) -> float:
        """Return the quantile `part` of the latencies in milliseconds; 0 without responses."""
        times = sorted(self.milliseconds.get(status, ()))
        return times[min(len(times) - 1, int(len(times) * part))] if times else 0.0


def load(
    running: Running, content: Content, payload: Payload, clients: int, seconds: int
) -> Answers:
    """Repeat a request, after a check that its response is correct.

    Exit if the responses are shorter on average than the correct response.
    """
    size = check(content, payload, running)
    answers, got = send(running, payload, clients, seconds)
    # An error over gRPC also has the HTTP status 200, but is shorter than a correct response.
    if len(answers.milliseconds) == 1 and got < 0.97 * size:
        sys.exit(
            f"{payload.path}: the responses have {got:.0f} bytes on average, but a correct "
            f"response has {size}"
        )
    return answers


def send(
    running: Running, payload: Payload, clients: int, seconds: int, *more: str
) -> tuple[Answers, float]:
    """Repeat a request with h2load; return the responses, and their mean length in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(payload.body)
        port = running.grpc_port if payload.grpc else running.port
        command = ["h2load", f"--clients={clients}", f"--data={body}", f"--log-file={log}"]
        command += [f"--duration={seconds}", f"--warm-up-time={WARM_UP}", *more]
        command += [] if payload.grpc else ["--h1"]
        for header in payload.headers.items():
            command += ["--header", ": ".join(header)]
        url = f"http://127.0.0.1:{port}{payload.path}"
        report = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
        rows = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    milliseconds = defaultdict(list)
    for _, status, microseconds in rows:
        if status > 0:  # otherwise there was no response yet when the load ended
            milliseconds[status].append(microseconds / 1e3)
    data = re.search(r"\((\d+)\) data", report)
    return Answers(seconds, dict(milliseconds)), int(data[1]) / len(rows) if data and rows else 0.0


def bare_loop(content: Content, seconds: int) -> float:
    """Return the images per second of the loop without a server."""
    with tempfile.NamedTemporaryFile() as image:
        image.write(content.image)
        image.flush()
        python, program = environment(BARE_LOOP) / "bin" / "python", HERE / "bare_loop.py"
        places = (python, program, MODELS / content.model / "1", image.name, 2 * seconds)
        command = list(map(str, places))
        return float(subprocess.check_output(command, env=variables(), text=True))


def measure_work(case: str, seconds: int, samples: Samples) -> None:
    """Measure one round of a case: every server in turn, with each number of requests in flight."""
    model, kind, peers, concurrency = WORK[case]
    content = content_of(model)
    for name in (OURS, *peers):
        with start(name, content) as running:
            payload = SERVERS[name].requests[kind](content)
            load(running, content, payload, 8, 1)
            for clients in concurrency:
                answers = load(running, content, payload, clients, seconds)
                if set(answers.milliseconds) != {200}:
                    sys.exit(
                        f"{name}, {case}: the responses have the statuses "
                        f"{sorted(answers.milliseconds)}; all must be 200"
                    )
                show(samples, f"{case} {clients} /s", name, answers.per_second())
                show(samples, f"{case} {clients} p99 ms", name, answers.quantile(0.99))
    if case in LOOPS:
        show(samples, f"{case} {max(concurrency)} /s", BARE_LOOP, bare_loop(content, seconds))


def flood(running: Running, payload: Payload, rate: float, seconds: int) -> Answers:
    """Send `rate` requests per second at even intervals, without waiting for responses."""
    clients = OVERLOAD_CLIENTS // OVERLOAD_LOADS
    interval = OVERLOAD_CLIENTS / rate  # seconds between two requests of a connection

    def one(number: int) -> Answers:
        time.sleep(number * interval / OVERLOAD_LOADS)
        each = f"--rps={rate / OVERLOAD_CLIENTS}"
        return send(running, payload, clients, seconds, each)[0]

    merged: dict[int, list[float]] = defaultdict(list)
    with ThreadPoolExecutor(OVERLOAD_LOADS) as pool:
        for answers in pool.map(one, range(OVERLOAD_LOADS)):
            for status, milliseconds in answers.milliseconds.items():
                merged[status] += milliseconds
    return Answers(seconds, dict(merged))


def measure_overload(seconds: int, overload_seconds: int, samples: Samples) -> None:
    """Measure one round of our server under overload, compared with its capacity."""
    content = content_of(OVERLOAD)
    payload = SERVERS[OURS].requests["image"](content)
    with start(OURS, content, "--timeout", str(DEADLINE)) as running:
        capacity = load(running, content, payload, 8, seconds).per_second()
        answers = flood(running, payload, OVERLOAD_FACTOR * capacity, overload_seconds)
    refused = sum(len(v) for status, v in answers.milliseconds.items() if status != 200)
    figures = {
        "accepted /s": (answers.per_second(), capacity),
        "accepted p99 ms": (answers.quantile(0.99), DEADLINE * 1e3),
        "refused median ms": (answers.quantile(0.5, 429), 10.0),
        "offered /s": (answers.per_second() + refused / answers.seconds, capacity),
    }
    for figure, (value, bound) in figures.items():
        show(samples, f"overload {figure}", OURS, value)
        show(samples, f"overload {figure}", "aim or capacity", bound)
    counts = {status: len(v) for status, v in answers.milliseconds.items()}
    print("number of responses with each HTTP status:", counts)


def measure_rest(samples: Samples) -> None:
    """Measure one round of the start-up time, the memory at rest and the size of the packages."""
    content = content_of("resnet20")
    for name in SERVERS:
        with start(name, content) as running:
            time.sleep(2)
            show(samples, "start s", name, running.seconds)
            show(samples, "memory MB", name, running.megabytes())
        show(samples, "site-packages MB", name, packages_megabytes(name))


def packages_megabytes(name: str) -> float:
    """Return the size of a server's environment in megabytes, without pip and setuptools."""
    total, own = 0, ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    folder = next((environment(name) / "lib").glob("python*/site-packages"))
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and "__pycache__" not in parts and not parts[0].startswith(own):
            total += path.stat().st_size
    return total / 1e6


def show(samples: Samples, case: str, name: str, value: float) -> None:
    samples.setdefault(case, {}).setdefault(name, []).append(value)
    print(f"  {case:<24}{name:<16}{value:>10.1f}", flush=True)


def table(samples: Samples) -> list[dict[str, Any]]:
    """Print the medians; return our ratios to each of the other servers."""
    rows = []
    for case, servers in samples.items():
        ours = servers[OURS]
        print(f"{case:<24}{OURS:<16}{statistics.median(ours):>10.1f}")
        for peer, theirs in servers.items():
            if peer == OURS:
                continue
            ratios = sorted(a / b for a, b in zip(ours, theirs, strict=False))
            figures = (statistics.median(ratios), ratios[0], ratios[-1])
            spread = "".join(f"{value:>8.2f}" for value in figures)
            print(f"{'':<24}{peer:<16}{statistics.median(theirs):>10.1f}{spread}")
            numbers = {"ratio": figures[0], "low": figures[1], "high": figures[2]}
            row = {"case": case, "subject": "keras-cnns-serve", "peer": peer}
            rows.append(row | {key: round(value, 3) for key, value in numbers.items()})
    return rows


def prepare() -> None:
    """Export the models if they are missing; exit if an environment or h2load is missing."""
    missing = [name for name in SERVERS if not environment(name).exists()]
    if missing:
        sys.exit(
            f"there is no environment for {', '.join(missing)}; create it with "
            f"{HERE / 'make_environments.sh'}"
        )
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed; it is in Debian's package nghttp2-client")
    if not (MODELS / OVERLOAD / "1").exists():
        subprocess.run([sys.executable, HERE / "make_models.py", MODELS], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cases = (*WORK, "overload", "rest")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases, metavar="CASE")
    parser.add_argument(
        "--rounds", type=int, help="number of rounds (default: 1 with --quick, otherwise 3)"
    )
    parser.add_argument(
        "--merge", action="store_true", help="add the rounds to those in the file of --json"
    )
    arguments = parser.parse_args()
    rounds, seconds = (1, 2) if arguments.quick else (3, 3)
    overload_seconds = OVERLOAD_QUICK if arguments.quick else OVERLOAD_SECONDS
    prepare()
    samples: Samples = {}
    if arguments.merge and arguments.json and arguments.json.exists():
        samples = json.loads(arguments.json.read_text("utf-8"))["samples"]
    for _ in range(arguments.rounds or rounds):
        for case in arguments.cases:
            if case == "overload":
                measure_overload(seconds, overload_seconds, samples)
            elif case == "rest":
                measure_rest(samples)
            else:
                measure_work(case, seconds, samples)
    header = "".join(f"{name:>8}" for name in ("ratio", "low", "high"))
    print(f"{'case':<24}{'server':<16}{'median':>10}{header}")
    rows = table(samples)
    if arguments.json:
        document = {"rows": rows, "samples": samples}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
