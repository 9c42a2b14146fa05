"""Speed of every exported format and of PyTorch, compared with the plain graph of tf2onnx.

    python benchmarks/inference.py [--quick] [--networks NAME ...] [--subjects NAME ...]
                                    [--models DIR] [--json FILE]

The plain graph is the result of tf2onnx for the network with Keras' own batch normalisation. It
runs in ONNX Runtime on float32 pixels; the exported formats get raw uint8 pixels. The weights are
random, because the speed does not depend on them. Every subject runs in a process of its own, in
turn, so that a slow moment of the machine affects all subjects. A ratio is the time of the plain
graph divided by that of the subject; the subject is faster if the ratio is greater than 1. The aims
are 1.0 for float32 ONNX (1.1 for pre-activation networks), 2.7 for int8 ONNX, 3.1 for OpenVINO in
int8, and 1.8 for OpenVINO in bfloat16. `peak` is the speed as a fraction of that of one large
float32 matrix product on this machine; int8 may exceed 1. PyTorch is measured if `.venv-parity`
exists (`make test-parity` creates it), or with the environment of --torch-python.

tf2onnx cannot write a plain graph of ResNeXt-50, because its convolutions are grouped. The exported
ONNX file of ResNeXt-50 is compared with that of ResNet-50, which has as many multiplications: the
ratio is the time of ResNeXt-50 divided by that of ResNet-50, and should be at most 1.3
(`--networks resnext50_32x4d`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from turns import PARITY_PYTHON, ratios, write_rows

# network -> height and width of its images, in pixels
NETS = {"resnet20": 32, "resnet18": 224, "googlenet": 224, "resnet50": 224, "resnet50_v2": 224}
# Networks whose exported ONNX file is compared with that of another network.
PEERS = {"resnext50_32x4d": "resnet50"}
PIXELS = NETS | {name: NETS[peer] for name, peer in PEERS.items()}
QUICK = ("resnet20",)
BATCHES = (1, 8, 32)
PLAIN = "plain onnx"
TORCH = {"torch": "", "torch compiled": "compiled", "torch bfloat16": "bfloat16"}
IN_TORCHVISION = ("googlenet", "resnet18", "resnet50")
MATRIX = 4096  # number of rows and columns
CALIBRATION = 32  # number of calibration images
SECONDS = 0.2  # approximate duration of a turn

Run = Callable[[], Any]


def prepare(name: str, directory: Path) -> None:
    """Write a network into a directory, in every format, with a file costs.json.

    costs.json has the number of multiplications and the size of each format. A network of PEERS is
    written only as ONNX.
    """
    import keras

    from keras_cnns.models import build, cost
    from keras_cnns_export.batches import generated_batches
    from keras_cnns_export.contract import Preprocessing
    from keras_cnns_export.formats import FORMATS, in_order, size_of
    from keras_cnns_export.formats.openvino import has_bfloat16
    from keras_cnns_export.graph import Source, serving_graph
    from keras_cnns_export.options import Quantization

    keras.utils.set_random_seed(0)
    shape = (PIXELS[name], PIXELS[name], 3)
    network = build(name, input_shape=shape)
    graph = serving_graph(network)
    source = Source(
        graph,
        tuple(map(str, range(graph.classes))),
        Preprocessing.for_shape(shape),
        training_batches=lambda: generated_batches(shape, CALIBRATION),
        quantization=Quantization(samples=CALIBRATION),
    )
    entries = {}
    for each in in_order(["onnx"] if name in PEERS else FORMATS):
        if FORMATS[each].precision == "bfloat16" and not has_bfloat16():
            continue
        FORMATS[each].write(source, directory)
        entries[each] = size_of(each, directory)

    content = {"multiplications": cost(network).multiply_adds, "bytes": entries}
    if name not in PEERS:
        entries[PLAIN] = write_plain(network, directory / "plain.onnx")
    (directory / "costs.json").write_text(json.dumps(content), "utf-8")


def write_plain(network: Any, path: Path) -> int:
    """Write the plain graph of tf2onnx, and return the size of the file in bytes."""
    import keras
    import tensorflow as tf
    import tf2onnx

    from keras_cnns.models import BatchNormalization

    def keras_own(layer: Any) -> Any:
        kind = type(layer)
        if isinstance(layer, BatchNormalization):
            kind = keras.layers.BatchNormalization
        return kind.from_config(layer.get_config())

    plain = keras.models.clone_model(network, clone_function=keras_own)
    plain.set_weights(network.get_weights())
    signature = [tf.TensorSpec(network.inputs[0].shape, tf.float32, name="images")]
    function = tf.function(lambda images: {"probabilities": plain(images, training=False)})
    tf2onnx.convert.from_function(function, signature, opset=17, output_path=str(path))
    return path.stat().st_size


def format_run(name: str, directory: Path, subject: str, batch: int) -> tuple[Run, float]:
    """Load a format; return a function that runs one batch, and the seconds of the loading."""
    import numpy as np

    from keras_cnns_export.formats import FORMATS

    side = PIXELS[name]
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    if subject == PLAIN:
        import onnxruntime

        start = time.perf_counter()
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(directory / "plain.onnx", providers=providers)
        pixels = {session.get_inputs()[0].name: images.astype(np.float32)}
        return (lambda: session.run(None, pixels)), time.perf_counter() - start
    if FORMATS[subject].engine == "tensorflow":
        import tensorflow  # noqa: F401  so that the time of the loading excludes this import
    start = time.perf_counter()
    predict = FORMATS[subject].load(directory)
    return (lambda: predict(images)), time.perf_counter() - start


def torch_run(name: str, subject: str, batch: int) -> tuple[Run, float]:
    import torch
    from torch_nets import import_torchvision, resnet20

    start = time.perf_counter()
    if name in IN_TORCHVISION:
        torchvision = import_torchvision()
        options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
        network = torchvision.models.get_model(name, weights=None, **options)
    else:
        network = torch.nn.Sequential(resnet20(), torch.nn.Softmax(1))
    dtype = torch.bfloat16 if subject == "torch bfloat16" else torch.float32
    network = network.eval().to(memory_format=torch.channels_last, dtype=dtype)
    seconds = time.perf_counter() - start
    images = torch.rand(batch, 3, NETS[name], NETS[name]).to(dtype)
    images = images.to(memory_format=torch.channels_last)
    if subject == "torch compiled":
        network = torch.compile(network)

    def run() -> None:
        with torch.inference_mode():
            network(images)

    return run, seconds


def matrix_run() -> tuple[Run, float]:
    import tensorflow as tf

    matrix = tf.random.normal((MATRIX, MATRIX))
    return (lambda: (matrix @ matrix).numpy()), 0.0


def work(name: str, directory: str, subject: str, batch: str) -> None:
    """Run a subject in this process.

    Load it, and measure a turn for each line of standard input.
    """
    if subject == "matrix":
        run, load_seconds = matrix_run()
    elif subject in TORCH:
        run, load_seconds = torch_run(name, subject, int(batch))
    else:
        run, load_seconds = format_run(name, Path(directory), subject, int(batch))
    run()
    start = time.perf_counter()
    run()
    count = max(1, round(SECONDS / (time.perf_counter() - start)))
    print(load_seconds, flush=True)
    for _ in sys.stdin:
        run()  # not measured: the threads of the engine may sleep before it
        start = time.perf_counter()
        for _ in range(count):
            run()
        print((time.perf_counter() - start) / count, flush=True)


@contextmanager
def worker(python: str, *arguments: str) -> Iterator[tuple[float, Callable[[], float]]]:
    """Start the process of a subject.

    Yield the seconds of its loading, and a function that returns the mean seconds of a run.
    """
    process = subprocess.Popen(
        [python, __file__, "--worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def answer() -> float:
        line = stdout.readline()
        if not line:
            raise SystemExit(
                f"inference.py: the process of {' '.join(arguments)} ended before its answer"
            )
        return float(line)

    def measure() -> float:
        stdin.write("go\n")
        stdin.flush()
        return answer()

    try:
        yield answer(), measure
    finally:
        stdin.close()
        process.wait()
        stdout.close()


def compare(
    name: str,
    directory: Path,
    batch: int,
    rounds: int,
    torch_python: Path,
    only: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Measure all subjects in turn; print and return a row for each subject."""
    costs = json.loads((directory / "costs.json").read_text("utf-8"))
    subjects = {PLAIN: sys.executable, **dict.fromkeys(costs["bytes"], sys.executable)}
    if torch_python.exists() and (name in IN_TORCHVISION or name == "resnet20"):
        subjects |= dict.fromkeys(TORCH, str(torch_python))
    if only:
        subjects = {each: subjects[each] for each in subjects if each in (PLAIN, *only)}
    subjects["matrix"] = sys.executable
    with ExitStack() as stack:
        workers = {
            subject: stack.enter_context(worker(python, name, str(directory), subject, str(batch)))
            for subject, python in subjects.items()
        }
        times: dict[str, list[float]] = {subject: [] for subject in workers}
        for _ in range(rounds):
            for subject, (_, measure) in workers.items():
                times[subject].append(measure())
    peak = 2 * MATRIX**3 / statistics.median(times.pop("matrix"))
    rows = []
    for subject, seconds in times.items():
        figures = ratios(times[PLAIN], seconds)
        median = statistics.median(seconds)
        share = 2 * costs["multiplications"] * batch / median / peak
        size = costs["bytes"].get(subject, 0) / 1e6
        rows.append(
            {"case": f"{name}, batch {batch}", "subject": subject, "peer": PLAIN}
            | figures
            | {"milliseconds": round(median * 1e3, 3), "share_of_peak": round(share, 3)}
            | {"megabytes": round(size, 2), "load_milliseconds": round(workers[subject][0] * 1e3)}
        )
        print(
            f"{rows[-1]['case']:<22}{subject:<19}{median * 1e3:>9.2f}"
            + "".join(f"{value:>7.2f}" for value in figures.values())
            + f"{share:>7.2f}{size:>8.1f}{workers[subject][0] * 1e3:>8.0f}",
            flush=True,
        )
    print(f"{'':<22}peak, from a float32 matrix product: {peak / 1e9:.0f} GFLOP/s", flush=True)
    return rows


def compare_with_peer(name: str, models: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Compare the ONNX file of a network of PEERS with that of its peer; print and return a row."""
    peer = PEERS[name]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                worker(sys.executable, each, str(models / each), "onnx", str(batch))
            )
            for each in (name, peer)
        ]
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for seconds, (_, measure) in zip(times, workers, strict=True):
                seconds.append(measure())
    figures = ratios(*times)
    milliseconds = round(statistics.median(times[0]) * 1e3, 3)
    print(
        f"{f'{name}, batch {batch}':<22}{'onnx':<19}{milliseconds:>9.2f}"
        + "".join(f"{value:>7.2f}" for value in figures.values())
        + f"   {peer}: {statistics.median(times[1]) * 1e3:.2f} ms",
        flush=True,
    )
    row = {"case": f"{name}, batch {batch}", "subject": "onnx", "peer": peer, **figures}
    return {**row, "milliseconds": milliseconds}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smallest network, fewer rounds")
    parser.add_argument(
        "--networks", nargs="+", choices=PIXELS, metavar="NAME", help=", ".join(PIXELS)
    )
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, metavar="N")
    parser.add_argument(
        "--subjects", nargs="+", metavar="NAME", help="measure only these and the plain graph"
    )
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="keep the exported files in this directory"
    )
    parser.add_argument(
        "--torch-python",
        type=Path,
        default=PARITY_PYTHON,
        metavar="FILE",
        help="the Python of an environment with PyTorch",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.prepare:
        prepare(options.prepare[0], Path(options.prepare[1]))
        return
    if options.worker:
        work(*options.worker)
        return
    titles = ("ms", "ratio", "low", "high", "peak", "MB", "load ms")
    widths = (9, 7, 7, 7, 7, 8, 8)
    print(f"{'case':<22}{'subject':<19}", end="")
    print("".join(f"{title:>{width}}" for title, width in zip(titles, widths, strict=True)))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        models = options.models or Path(temporary)
        rounds = 3 if options.quick else 7
        for name in options.networks or (QUICK if options.quick else PIXELS):
            for each in (name, *([PEERS[name]] if name in PEERS else [])):
                directory = models / each
                if not (directory / "costs.json").exists():
                    directory.mkdir(parents=True, exist_ok=True)
                    command = [sys.executable, __file__, "--prepare", each, str(directory)]
                    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            for batch in options.batches:
                if name in PEERS:
                    rows.append(compare_with_peer(name, models, batch, rounds))
                else:
                    rows += compare(
                        name, models / name, batch, rounds, options.torch_python, options.subjects
                    )
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
