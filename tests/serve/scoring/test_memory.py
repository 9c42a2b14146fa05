"""The memory of scoring does not depend on the number of images."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import grey

CODE = """
import resource, sys
from keras_cnns_serve.cli import main
status = main(["score", *sys.argv[1:]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(status)
"""


def peak_megabytes(model: Path, images: Path, count: int, to: Path) -> int:
    """Score a list of `count` images in a process of its own; return its peak memory."""
    with images.open("w") as file:
        file.write("file\n")
        file.writelines(f"{images.parent}/{number % 100}.jpg\n" for number in range(count))
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(model), str(images), "--to", str(to)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sum(part.read_bytes().count(b"\n") for part in to.glob("part-*")) == count
    return int(done.stdout)


@pytest.mark.soak
def test_memory_is_bounded_for_any_number_of_images(model: Path, tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.jpg").write_bytes(grey(2 * number, (32, 32), "JPEG"))
    few = peak_megabytes(model, tmp_path / "list.csv", 5_000, tmp_path / "few")
    many = peak_megabytes(model, tmp_path / "list.csv", 300_000, tmp_path / "many")
    assert many < few + 20


@pytest.mark.soak
def test_memory_is_bounded_for_large_folders(model: Path, tmp_path: Path) -> None:
    """Names of folders are sorted on disk: a list in memory would take 100 bytes for each."""
    code = """
import resource, sys
from keras_cnns_serve.scoring import inputs
with open(sys.argv[1], "wb") as file:
    numbers = range(int(sys.argv[2]))
    inputs._walk = lambda folder, _: (f"{folder}/{'x' * 80}{number:09}.jpg" for number in numbers)
    assert inputs.write_names([sys.argv[3]], file, []) == len(numbers)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    few, many = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / "names"), count, str(tmp_path)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for count in ("200000", "2000000")
    )
    assert many < few + 20
