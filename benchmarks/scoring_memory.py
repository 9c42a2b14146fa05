"""Memory of `keras-cnns score` while it scores a million images of 32x32 pixels with ResNet-20.

    python benchmarks/scoring_memory.py [--quick] [--images N] [--json FILE]

The images are a CSV list in which 192 JPEG files are repeated. The script reads the resident memory
of the process five times per second. The table has the maximum in each tenth of the run. If the
memory does not depend on the number of images, the maximum in the last tenth is the same as in the
second tenth. The weights are random.
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
    """Run a command; return tuples of the seconds since its start and its resident bytes."""
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
        raise RuntimeError(f"the command {command} ended with status {process.returncode}")
    return readings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="score 20,000 images")
    parser.add_argument("--images", type=int, default=1_000_000, help="number of images")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
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
        print(f"until {end:8.0f} s {rows[-1]['megabytes']:10,.1f} MB")
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
