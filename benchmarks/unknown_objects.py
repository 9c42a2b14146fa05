"""Unknown objects, and thresholds on new images, for models of clothes and of digits.

    python benchmarks/unknown_objects.py [--quick] [--runs DIRECTORY] [--json FILE]

One model is trained on images of clothes (Fashion-MNIST), and two on digits, one of them with
MixUp. Each model predicts test images of its own data set (known) and of the other data set
(unknown). Two scores are compared: the highest softmax probability (Hendrycks and Gimpel 2017) and
the energy (Liu et al. 2020). For each score, the first table has the AUROC, and the fraction of the
unknown images that are accepted by a threshold that accepts 95 % of the known images.

The second table is about the thresholds that were chosen on the validation split. For each of them,
it compares the accuracy on the validation split with the accuracy on new images, which are up to
1,000 test images. The two agree if the 95 % interval of one accuracy (Wilson 1927) contains the
other accuracy. With `--runs`, finished runs are kept and used again.
"""

import argparse
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from turns import write_rows

from keras_cnns.messages import counting
from keras_cnns.recipes import load_recipe
from keras_cnns.runs.evaluation import predict_split
from keras_cnns.runs.run import Run
from keras_cnns.runs.selective import measure_threshold
from keras_cnns.runs.unknown import compare_unknown
from keras_cnns.training import train

FASHION = load_recipe("fashion-resnet20").data.path
# run -> its recipe, the unknown images, changes of the recipe, and further changes for a quick run
CASES: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "fashion": (
        "fashion-resnet20",
        "digits",
        ("data.test_split=test[:1000]",),  # the new images
        ("data.train_split=train[:16000]", "training.epochs=2"),
    ),
    "digits": ("digits-resnet20", FASHION, (), ()),
    "digits-mixup": ("digits-resnet20", FASHION, ("augmentation.mixup_alpha=0.3",), ()),
}
SCORES = ("probability", "energy")


def compare_scores(run: Run, unknown: str) -> dict[str, Any]:
    """Print and return how well each score separates known and unknown images."""
    found = compare_unknown(run, run.recipe.data.test_split, unknown, counting).to_dict()
    row: dict[str, Any] = {"run": run.path.name, "unknown": unknown}
    row |= {f"{key}_images": found[f"{key}_images"] for key in ("known", "unknown")}
    for score in SCORES:
        row |= {f"{score}_{key}": round(value, 4) for key, value in found[score].items()}
    cells = [
        f"{row[f'{score}_auroc']:11.4f}{row[f'{score}_unknown_accepted']:9.1%}" for score in SCORES
    ]
    counts = f"{row['known_images']:7,}{row['unknown_images']:9,}"
    print(f"{row['run']:18}{counts}{''.join(cells)}", flush=True)
    return row


def compare_thresholds(run: Run) -> list[dict[str, Any]]:
    """Print and return each threshold's accuracy on the validation split and on new images."""
    new = predict_split(run)
    rows = []
    for each in run.results()["confidence"]["thresholds"]:
        found = measure_threshold(each["threshold"], new.confidences, new.is_correct)
        if each["accuracy"] is None or found.accuracy is None or found.accuracy_interval is None:
            continue
        low, high = found.accuracy_interval
        rows.append(
            {
                "run": run.path.name,
                "chosen_for": each["min_accuracy"],
                "threshold": each["threshold"],
                "table": round(each["accuracy"], 4),
                "new": round(found.accuracy, 4),
                "interval": [round(low, 4), round(high, 4)],
                "table_coverage": round(each["coverage"], 4),
                "new_coverage": round(found.coverage, 4),
                "agrees": low <= each["accuracy"] <= high,
            }
        )
        row = rows[-1]
        print(
            f"{row['run']:18}{row['chosen_for'] or '-':>6}{row['threshold']:10.5g}"
            f"{row['table_coverage']:9.1%}{row['new_coverage']:9.1%}{row['table']:9.1%}"
            f"{row['new']:9.1%}   {low:.1%} to {high:.1%}   {'yes' if row['agrees'] else 'no'}"
        )
    return rows


def main() -> None:
    """Train the models and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="train on fewer images of clothes")
    parser.add_argument("--runs", type=Path, help="keep the runs in this directory")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    kept = nullcontext(options.runs) if options.runs else tempfile.TemporaryDirectory()
    with kept as directory:
        runs = {
            name: train(
                load_recipe(recipe, [*changes, *(quick if options.quick else ())]),
                Path(directory) / name,
                checkpoint_seconds=None,
            )
            for name, (recipe, _, changes, quick) in CASES.items()
        }
        print(f"\n{'':34}{'highest probability':>20}{'energy':>20}")
        columns = f"{'AUROC':>11}{'accepted':>9}" * len(SCORES)
        print(f"{'model':18}{'known':>7}{'unknown':>9}{columns}")
        scores = [compare_scores(run, CASES[name][1]) for name, run in runs.items()]
        print(
            f"\n{'model':18}{'for':>6}{'threshold':>10}{'coverage':>9}{'new':>9}{'accuracy':>9}"
            f"{'new':>9}   95 % interval   agrees"
        )
        rows = [row for run in runs.values() for row in compare_thresholds(run)]
    write_rows(options.json, [*scores, *rows])


if __name__ == "__main__":
    main()
