"""The table of published accuracies has the numbers of the runs, and the docs contain it."""

import contextlib
import io
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from keras_cnns.recipes import format_recipe, load_recipe, load_run_recipe
from keras_cnns.recipes.documentation import summarize_recipe

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "benchmarks" / "results").glob("*-seed*"))


MAIN = runpy.run_path(str(ROOT / "benchmarks" / "published.py"))["main"]


def published(*arguments: Any, status: int = 0) -> str:
    """Run the script; return what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        assert MAIN([*map(str, arguments)]) == status, output.getvalue()
    return output.getvalue()


def make_run(path: Path, seed: int, accuracy: float, *overrides: str, images: int = 10_000) -> Path:
    """Write the files that a run of fashion-googlenet leaves."""
    path.mkdir()
    recipe = load_recipe("fashion-googlenet", [f"training.seed={seed}", *overrides])
    (path / "config.toml").write_text(format_recipe(recipe), "utf-8")
    (path / "history.csv").write_text("epoch,loss\n0,1.5\n", "utf-8")
    (path / "model.keras").write_text("weights", "utf-8")
    test = {"samples": images, "loss": 0.2, "accuracy": accuracy}
    results = {"training_seconds": 1200 * (seed + 1), "best_epoch": 1, "test": test}
    (path / "results.json").write_text(json.dumps(results), "utf-8")
    return path


def test_the_documentation_has_the_table_of_the_kept_runs() -> None:
    assert published("--markdown") in (ROOT / "benchmarks" / "README.md").read_text("utf-8")


def test_kept_runs_have_their_recipe_and_its_header_has_their_accuracy() -> None:
    accuracies: dict[str, list[float]] = {}
    for folder in KEPT:
        name, _, seed = folder.name.rpartition("-seed")
        kept = load_run_recipe(folder / "config.toml")
        expected = load_recipe(name, [f"training.seed={seed}", f"data.path={kept.data.path}"])
        assert kept == expected, folder.name
        assert {each.name for each in folder.iterdir()} == {
            *("config.toml", "history.csv", "results.json")
        }
        results = json.loads((folder / "results.json").read_text("utf-8"))
        accuracies.setdefault(name, []).append(results["test"]["accuracy"])
    for name, values in accuracies.items():
        mean = 100 * sum(values) / len(values)
        assert float(summarize_recipe(name).measured_accuracy[:-2]) == pytest.approx(mean, abs=0.05)


def test_runs_are_kept_and_summed_up(tmp_path: Path) -> None:
    results = tmp_path / "results"
    row = next(line for line in published("--results", results).splitlines() if "GoogLe" in line)
    assert row.split() == ["GoogLeNet", "0.937", "no", "run", "kept", "fashion-googlenet"]
    for seed, accuracy in enumerate((0.94, 0.942)):
        run = make_run(tmp_path / f"run{seed}", seed, accuracy)
        assert f"fashion-googlenet-seed{seed}" in published("--keep", run, "--results", results)
    kept = results / "fashion-googlenet-seed1"
    assert sorted(each.name for each in kept.iterdir()) == [
        *("config.toml", "history.csv", "results.json")
    ]
    expected = "| GoogLeNet | 0.937 | 0.9410 | 0.0014 | 2 | 30 min 0 s | fashion-googlenet |"
    assert expected in published("--markdown", "--results", results)
    again = published("--keep", tmp_path / "run1", "--results", results, status=2)
    assert "exists already" in again


@pytest.mark.parametrize(
    ("override", "images", "message"),
    [
        ("training.epochs=3", 10_000, "it differs from fashion-googlenet in training.epochs"),
        ("training.epochs=10", 500, "was tested on 500 images; the test split has 10,000"),
    ],
)
def test_another_recipe_or_other_images_are_refused(
    override: str, images: int, message: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", 0, 0.94, override, images=images)
    assert message in published("--keep", run, "--results", tmp_path, status=2)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    assert "it has no config.toml" in published("--keep", tmp_path, status=2)
