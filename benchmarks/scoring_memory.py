"""Memory of `keras-cnns score` while it labels a million images of 32 x 32 pixels with ResNet-20.

    python benchmarks/scoring_memory.py [--quick] [--images N] [--json FILE]

A CSV list names 192 JPEG files again and again. The resident memory of the process is read five
times a second; the table has its maximum in each tenth of the run. If the memory does not depend on
the number of images, the last tenth needs as much as the second one. Weights are random.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from scoring import prepare, write_images, write_list
from turns import write_rows

PARTS = 10


def measure(command: list[str]) -> list[tuple[float, int]]:
    """Run a command; return the seconds and the resident bytes of each reading."""
    start = time.monotonic()
    process = psutil.Popen(command, stderr=subprocess.DEVNULL)
    readings = []
    while process.poll() is None:
        try:
            readings.append((time.monotonic() - start, process.memory_info().rss))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    if process.wait():
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return readings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20,000 images")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="a file for the rows")
    arguments = parser.parse_args()
    images = 20_000 if arguments.quick else arguments.images
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        prepare("resnet20", str(folder / "models"))
        write_images(folder / "images", (32, 32))
        names = folder / "images.csv"
        write_list(names, folder / "images", images)
        command = [sys.executable, "-m", "keras_cnns_serve.cli", "score", str(folder / "models")]
        readings = measure([*command, str(names), "--to", str(folder / "scores")])
    seconds = readings[-1][0]
    print(f"{images:,} images in {seconds:.0f} s, {images / seconds:,.0f} images/s")
    rows = []
    for part in range(PARTS):
        start, end = part * seconds / PARTS, (part + 1) * seconds / PARTS
        inside = [size for at, size in readings if start <= at <= end]
        rows.append({"until_seconds": round(end, 1), "megabytes": round(max(inside) / 1e6, 1)})
        print(f"{end:8.0f} s {rows[-1]['megabytes']:10,.1f} MB")
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
