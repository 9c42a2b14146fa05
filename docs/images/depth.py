"""Draw docs/images/depth.svg from two training runs, of plain56 and of resnet56.

for model in plain56 resnet56; do
    keras-cnns train --recipe digits-resnet20 --run runs/$model --set model.name=$model \\
        --set data.image_size=16 --set data.resize_shorter=16 --set training.epochs=8 \\
        --set optimizer.learning_rate=0.05
done
python docs/images/depth.py runs
"""

import csv
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

MODELS = {
    "plain56": ("Plain-56: no skip connections", "#e0641a"),
    "resnet56": ("ResNet-56", "#1f5fd0"),
}
GRADIENT = "gradient_norm/"
STYLE = {
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "depth",  # the same input gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e9ecef",
    "legend.frameon": False,
}


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(runs: Path, to: Path) -> None:
    """Draw both runs: accuracy by epoch, and gradient norm by layer before the first step."""
    figure = Figure(figsize=(8.4, 3.1), layout="constrained")
    accuracy, gradients = figure.subplots(1, 2)
    for model, (name, colour) in MODELS.items():
        history = read(runs / model / "history.csv")
        values = [100 * float(row["val_accuracy"]) for row in history]
        accuracy.plot(range(1, len(values) + 1), values, "o-", color=colour, ms=3.5, label=name)
        before_step_1 = read(runs / model / "diagnostics.csv")[0]
        norms = [float(norm) for key, norm in before_step_1.items() if key.startswith(GRADIENT)]
        gradients.plot(range(1, len(norms) + 1), norms, color=colour, label=name)
    accuracy.set(title="Validation accuracy (%)", xlabel="epoch", ylim=(0, 103))
    gradients.set(
        title="Gradient norm of each layer before the first step",
        xlabel="layer, from the first to the last",
        yscale="log",
    )
    gradients.legend()
    figure.savefig(to, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    with matplotlib.rc_context(STYLE):
        main(Path(sys.argv[1]), Path(__file__).with_name("depth.svg"))
