"""Published test accuracies on Fashion-MNIST, compared with those of this project's recipes.

    python benchmarks/published.py [--markdown]
    python benchmarks/published.py --keep runs/fashion-googlenet

The published accuracies are from the list that the authors of the data set keep
(https://github.com/zalandoresearch/fashion-mnist#benchmark); they have not verified its entries.
Ours come from the runs in results/RECIPE-seedN/. `--keep` copies the recipe, the history and the
results of a finished run to such a folder, but not its weights. It refuses a run whose recipe
differs from the built-in one. The best epoch of a run is selected on the validation images, which
are a tenth of the training images. The test images are used once, after the training.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from keras_cnns.durations import format_seconds
from keras_cnns.recipes import Recipe, RecipeError, load_recipe, load_run_recipe
from keras_cnns.runs.names import CONFIG, HISTORY, RESULTS
from keras_cnns.table import print_table

RESULTS_FOLDER = Path(__file__).with_name("results")
COLUMNS = ("network", "published", "ours", "standard deviation", "runs", "training time", "recipe")
TEST_IMAGES = 10_000


class Reference(NamedTuple):
    """A row of the table."""

    network: str
    published: float | None  # accuracy on the test images, from 0 to 1
    recipe: str = ""  # our recipe; "" if the row has only the published accuracy


REFERENCES = (
    Reference("ResNet-20", None, "fashion-resnet20"),
    Reference("ResNet-20, 7 epochs", None, "fashion-fast"),
    Reference("GoogLeNet", 0.937, "fashion-googlenet"),
    Reference("ResNet-18", 0.949, "fashion-resnet18"),
    Reference("MobileNet", 0.950),
    Reference("DenseNet-BC", 0.954),
    Reference("WRN-28-10", 0.959),
    Reference("WRN-28-10 with random erasing", 0.963),
    Reference("WRN-40-4", 0.967),
)
RECIPES = tuple(each.recipe for each in REFERENCES if each.recipe)


class KeepError(ValueError):
    """A run cannot be kept; the message states the reason."""


def kept_runs(recipe: str, folder: Path = RESULTS_FOLDER) -> list[dict[str, Any]]:
    """Return the content of results.json of each kept run of a recipe, ordered by seed."""
    paths = folder.glob(f"{recipe}-seed*/{RESULTS}")
    ordered = sorted(paths, key=lambda path: int(path.parent.name.rpartition("-seed")[2]))
    return [json.loads(path.read_text("utf-8")) for path in ordered]


def table(folder: Path = RESULTS_FOLDER) -> list[tuple[str, ...]]:
    """Return the cells of each row, in the order of COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for network, published, recipe in REFERENCES:
        runs = kept_runs(recipe, folder) if recipe else []
        accuracies = [run["test"]["accuracy"] for run in runs]
        seconds = [run["training_seconds"] for run in runs]
        rows.append(
            (
                network,
                "" if published is None else f"{published:.3f}",
                f"{statistics.mean(accuracies):.4f}" if runs else "no run kept",
                f"{statistics.stdev(accuracies):.4f}" if len(runs) > 1 else "",
                str(len(runs)) if runs else "",
                format_seconds(statistics.mean(seconds)) if runs else "",
                recipe,
            )
        )
    return rows


def markdown(folder: Path = RESULTS_FOLDER) -> str:
    """Return the table of benchmarks/README.md."""
    lines = [COLUMNS, ("---", *["---:"] * 5, "---"), *table(folder)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def recipe_of(path: Path) -> tuple[str, Recipe]:
    """Return the name of the built-in recipe that a run was trained with, and the run's recipe.

    Raises:
        KeepError: the run has another recipe; the message names the most similar recipe of the
            table, and the keys in which it differs.
    """
    try:
        run = load_run_recipe(path / CONFIG)
    except RecipeError as error:
        raise KeepError(str(error)) from None
    differences = {name: _differing_keys(run, load_recipe(name)) for name in RECIPES}
    name = min(differences, key=lambda each: len(differences[each]))
    if differences[name]:
        raise KeepError(
            f"{path} was not trained with a recipe of the table; it differs from {name} in "
            f"{', '.join(differences[name])}"
        )
    return name, run


def _differing_keys(run: Recipe, recipe: Recipe) -> list[str]:
    """Return the keys that differ, except for the seed and the path of the data."""
    recipe = replace(
        recipe,
        data=replace(recipe.data, path=run.data.path),
        training=replace(recipe.training, seed=run.training.seed),
    )
    ours, theirs = asdict(cast(Any, run)), asdict(cast(Any, recipe))
    return [
        f"{section}.{key}"
        for section, keys in ours.items()
        for key, value in keys.items()
        if theirs[section][key] != value
    ]


def keep(path: Path, folder: Path = RESULTS_FOLDER) -> Path:
    """Copy the files of a finished run that the table needs; return the new folder.

    Raises:
        KeepError: the run is not finished, was tested on other images, has another recipe, or is
            kept already.
    """
    missing = [name for name in (CONFIG, HISTORY, RESULTS) if not (path / name).is_file()]
    if missing:
        raise KeepError(f"{path} is not a finished run: it has no {' and no '.join(missing)}")
    images = json.loads((path / RESULTS).read_text("utf-8"))["test"]["samples"]
    if images != TEST_IMAGES:
        raise KeepError(f"{path} was tested on {images} images; the test split has {TEST_IMAGES:,}")
    name, run = recipe_of(path)
    kept = folder / f"{name}-seed{run.training.seed}"
    if kept.exists():
        raise KeepError(f"{kept} exists already; remove it first to replace it")
    partial = kept.with_name(f".{kept.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in (CONFIG, HISTORY, RESULTS):
        shutil.copyfile(path / file, partial / file)
    partial.rename(kept)
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or keep a run; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--markdown", action="store_true", help="print the table as benchmarks/README.md has it"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="RUN", help="copy the results of this run to --results"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS_FOLDER,
        metavar="DIR",
        help="the directory of the kept runs",
    )
    options = parser.parse_args(arguments)
    if options.keep:
        try:
            print(f"kept {keep(options.keep, options.results)}")
        except KeepError as error:
            print(f"published.py: {error}", file=sys.stderr)
            return 2
    elif options.markdown:
        print(markdown(options.results), end="")
    else:
        print_table(COLUMNS, table(options.results), numbers=range(1, 6))
    return 0


if __name__ == "__main__":
    sys.exit(main())
