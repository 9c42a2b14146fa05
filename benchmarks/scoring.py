"""Speed of `keras-cnns score`, compared with its engine alone and with a simple loop.

    python benchmarks/scoring.py [--quick] [--cases NAME ...] [--models DIR] [--json FILE]

Three subjects, each in a process of its own, run in turn on the same JPEG files:

- engine: the engine alone, with one thread for each core, on pixels that are already decoded;
- pipeline: the steps of `keras-cnns score` from the list of files to the rows of a shard, which
  read and decode the images, run the model, and encode and write the rows in order;
- loop: one thread that reads and decodes a batch, and then runs the model on all cores.

The ratio is a subject's speed divided by the engine's in the same round. The aim of the pipeline is
0.95 with GoogLeNet on images of 224x224 pixels, the size of the model's input. The ratio is lower
for large photographs and for small networks, because decoding uses the same cores as the engine.
`cpu` is the engine's CPU time per image divided by the subject's; other processes on the machine
hardly affect it. The weights are random, because the speed does not depend on them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any

from turns import ratios, write_rows

# Case -> network, (width, height) of the image files.
CASES = {
    "googlenet": ("googlenet", (224, 224)),
    "googlenet, photographs": ("googlenet", (500, 375)),
    "resnet20": ("resnet20", (32, 32)),
}
NETWORKS: dict[str, tuple[int, dict[str, Any] | None]] = {  # name -> classes, preprocessing
    "googlenet": (
        1000,
        {"resize_shorter": 224, "crop": 224, "interpolation": "bilinear"}
        | {"antialias": True, "channels": 3},
    ),
    "resnet20": (10, None),
}
SUBJECTS = ("engine", "pipeline", "loop")
IMAGES = 192  # number of image files
TURNS = {"googlenet": 1, "resnet20": 10}  # how many times each file is scored in a turn


def prepare(name: str, directory: str) -> None:
    """Export a network with random weights."""
    import keras

    from keras_cnns.models import build
    from keras_cnns_export import export

    keras.utils.set_random_seed(0)
    classes, preprocessing = NETWORKS[name]
    export(
        build(name),
        to=Path(directory) / name,
        labels=[f"class-{number}" for number in range(classes)],
        preprocessing=preprocessing,
        formats=("onnx",),
    )


def write_list(path: Path, folder: Path, count: int) -> None:
    """Write a CSV list with `count` rows, in which the files of a folder are repeated."""
    files = map(str, cycle(sorted(folder.iterdir())))
    with path.open("w") as file:
        file.writelines(f"{name}\n" for name in ("file", *islice(files, count)))


def write_images(directory: Path, size: tuple[int, int]) -> None:
    """Write smooth random JPEG files, with about as many bytes as photographs of this size."""
    import numpy as np
    from PIL import Image

    directory.mkdir()
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        few = generator.integers(0, 256, (12, 16, 3), np.uint8)
        buffer = BytesIO()
        Image.fromarray(few).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        (directory / f"{number:03}.jpg").write_bytes(buffer.getvalue())


def subject_run(
    subject: str, model: Path, names: Sequence[str], file: IO[bytes]
) -> Callable[[], None]:
    """Return a function that scores every file of `names` once."""
    import numpy as np
    import onnxruntime

    from keras_cnns_serve.core.limits import usable_cores
    from keras_cnns_serve.images.decoding import read_image
    from keras_cnns_serve.scoring import shards
    from keras_cnns_serve.scoring.inputs import read_content
    from keras_cnns_serve.scoring.options import ScoringOptions
    from keras_cnns_serve.scoring.pipeline import work_in_order
    from keras_cnns_serve.scoring.rows import FORMATS, Columns

    options = ScoringOptions(model, names)
    source = shards.open_version(model)
    size = shards.batch_size_of(source, options)
    batches = [names[start : start + size] for start in range(0, len(names), size)]

    def decoded(batch: Sequence[str]) -> Any:
        preprocessing = source.manifest.preprocessing
        return np.stack([read_image(read_content(name), preprocessing) for name in batch])

    if subject == "loop":
        session = onnxruntime.InferenceSession(
            source.directory / "model.onnx", providers=["CPUExecutionProvider"]
        )

        def loop() -> None:
            for batch in batches:
                (probabilities,) = session.run(["probabilities"], {"images": decoded(batch)})
                for name, row in zip(batch, probabilities, strict=True):
                    best = int(row.argmax())
                    text = {
                        "file": name,
                        "label": source.labels[best],
                        "probability": float(row[best]),
                    }
                    file.write(json.dumps(text).encode() + b"\n")

        return loop
    loaded = shards.load(source, options)
    if subject == "engine":
        pixels = list(map(decoded, batches))

        def engine() -> None:
            def work(batch: Any) -> Any:
                return loaded.engine.run(batch, ["probabilities"])

            for _ in work_in_order(work, pixels, usable_cores()):
                pass

        return engine
    scorer = shards.make_scorer(source, loaded, options)

    def pipeline() -> None:
        def work(batch: Sequence[str]) -> bytes:
            return FORMATS[".jsonl"].encode(scorer.score(batch), Columns())

        for text in work_in_order(work, batches, 2 * usable_cores()):
            file.write(text)

    return pipeline


def work(subject: str, model: str, images: str, turns: str) -> None:
    """Run a subject in this process.

    For each line of standard input, print the wall-clock and CPU seconds of a turn.
    """
    names = sorted(map(str, Path(images).iterdir())) * int(turns)
    with tempfile.TemporaryFile() as file:
        run = subject_run(subject, Path(model), names, file)
        run()
        print(json.dumps([0, 0]), flush=True)
        for _ in sys.stdin:
            file.seek(0)
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(json.dumps([wall, cpu]), flush=True)


class Subject:
    """The process of a subject."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, __file__, "--worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert self._process.stdin is not None
        stack.callback(self._process.stdin.close)
        self._answer()

    def measure(self) -> tuple[float, float]:
        """Let the process run a turn; return its wall-clock and CPU seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> tuple[float, float]:
        assert self._process.stdout is not None
        wall, cpu = json.loads(self._process.stdout.readline())
        return wall, cpu


def compare(case: str, models: Path, directory: Path, rounds: int) -> list[dict[str, Any]]:
    """Measure the subjects of a case in turn; print and return a row for each subject."""
    network, size = CASES[case]
    images = directory / case
    write_images(images, size)
    turns = TURNS[network]
    with ExitStack() as stack:
        subjects = {
            name: Subject(stack, name, str(models / network), str(images), str(turns))
            for name in SUBJECTS
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
        for _ in range(rounds):
            for name, subject in subjects.items():
                seconds[name].append(subject.measure())
    rows = []
    for name, measured in seconds.items():
        wall, cpu = (list(column) for column in zip(*measured, strict=True))
        bare_wall, bare_cpu = (list(column) for column in zip(*seconds["engine"], strict=True))
        per_image = statistics.median(wall) / IMAGES / turns
        rows.append(
            {"case": case, "subject": name, "peer": "engine", **ratios(bare_wall, wall)}
            | {"cpu_ratio": ratios(bare_cpu, cpu)["ratio"]}
            | {"images_per_second": round(1 / per_image, 1)}
            | {"cpu_milliseconds": round(statistics.median(cpu) / IMAGES / turns * 1e3, 3)}
        )
        row = rows[-1]
        print(
            f"{case:<24}{name:<10}{row['images_per_second']:>10}{row['ratio']:>8.2f}"
            f"{row['low']:>7.2f}{row['high']:>7.2f}{row['cpu_ratio']:>7.2f}"
            f"{row['cpu_milliseconds']:>10}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--models", type=Path, help="keep the models in this repository")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        models = options.models or Path(directory) / "models"
        for network in dict.fromkeys(CASES[case][0] for case in options.cases):
            if not (models / network).exists():
                command = [sys.executable, __file__, "--prepare", network, str(models)]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        header = (
            f"{'':<34}{'images/s':>10}{'ratio':>8}{'low':>7}{'high':>7}{'cpu':>7}{'cpu ms':>10}"
        )
        print(header)
        for case in options.cases:
            rows += compare(case, models, Path(directory), 3 if options.quick else 9)
    write_rows(options.json, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    elif sys.argv[1:2] == ["--prepare"]:
        prepare(*sys.argv[2:])
    else:
        main()
