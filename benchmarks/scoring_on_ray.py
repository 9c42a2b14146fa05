"""Speed of `keras-cnns score --engine ray` on one node, compared with the command without Ray.

    python benchmarks/scoring_on_ray.py [--quick] [--json FILE] [--rounds N]

Both subjects score the same JPEG files of 224x224 pixels with GoogLeNet, in turn. The images per
second are measured from the end of the first shard to the end of the last one. The start of Ray and
the loading of the model, which hardly matter in a long run, are therefore not measured. The script
needs the extra `keras-cnns-serve[ray]`. The weights are random, because the speed does not depend
on them.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scoring import prepare, write_images, write_list
from turns import write_rows

SUBJECTS = {"one machine": "auto", "ray": "ray"}
SHARD = 96  # number of images in a shard


def measure(engine: str, model: Path, names: Path, to: Path) -> float:
    """Score the images; return the images per second after the first shard."""
    command = [sys.executable, "-m", "keras_cnns_serve.cli", "score", str(model), str(names)]
    command += ["--to", str(to), "--shard-size", str(SHARD), "--engine", engine]
    subprocess.run(command, check=True, capture_output=True)
    ends = sorted(part.stat().st_mtime for part in to.glob("part-*"))
    return SHARD * (len(ends) - 1) / (ends[-1] - ends[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    shards = 4 if arguments.quick else 16
    rates: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        prepare("googlenet", str(folder / "models"))
        write_images(folder / "images", (224, 224))
        names = folder / "images.csv"
        write_list(names, folder / "images", shards * SHARD)
        for round_ in range(rounds):
            for name, engine in SUBJECTS.items():
                to = folder / f"{engine}-{round_}"
                rates[name].append(measure(engine, folder / "models", names, to))
    ratios = [ray / one for ray, one in zip(rates["ray"], rates["one machine"], strict=True)]
    row = {
        "rounds": rounds,
        **{f"{name}, images/s": round(statistics.median(each), 1) for name, each in rates.items()},
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }
    print(", ".join(f"{key} {value}" for key, value in row.items()))
    write_rows(arguments.json, [row])


if __name__ == "__main__":
    main()
