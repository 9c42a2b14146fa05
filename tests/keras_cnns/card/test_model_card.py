"""The model card: valid metadata, the run's numbers and nothing else, and hostile names."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from keras_cnns.card import Card, write_card
from keras_cnns.card.escaping import escape_markdown, fence, format_yaml
from keras_cnns.cli import app
from keras_cnns.intervals import format_interval
from keras_cnns.runs.run import RunError
from keras_cnns.training import Run

MISSING = "[More Information Needed]"


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Return the metadata and the Markdown of a card."""
    _, metadata, text = re.split(r"^---$", path.read_text("utf-8"), maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(metadata), text


@pytest.fixture
def run(finished_run: Run, tmp_path: Path) -> Path:
    """A copy of the run's files, without the checkpoints."""
    path = tmp_path / "quick"
    path.mkdir()
    for name in ("config.toml", "labels.txt", "results.json", "environment.json", "model.keras"):
        shutil.copy(finished_run.path / name, path)
    return path


def test_the_metadata_is_what_the_hub_reads(run: Path) -> None:
    metadata, _ = read(
        write_card(run, card=Card(license="apache-2.0", datasets=("example/digits",)))
    )
    test = json.loads((run / "results.json").read_text("utf-8"))["test"]
    assert metadata == {
        "license": "apache-2.0",
        "datasets": ["example/digits"],
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "keras", "keras-cnns", "resnet20"],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": "quick",
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image classification"},
                        "dataset": {
                            "type": "example/digits",
                            "name": "digits",
                            "split": "test[:32]",
                        },
                        "metrics": [
                            {"type": "accuracy", "name": "Accuracy", "value": test["accuracy"]}
                        ],
                    }
                ],
            }
        ],
    }


def test_what_is_unknown_is_left_out_or_marked(run: Path) -> None:
    (run / "environment.json").unlink()
    results = json.loads((run / "results.json").read_text("utf-8"))
    for key in ("test_classes", "last_epoch", "ended_by"):  # of a run of an earlier version
        del results[key]
    (run / "results.json").write_text(json.dumps(results))
    metadata, text = read(write_card(run))
    assert {"license", "datasets"} & metadata.keys() == set()
    assert f"- License: {MISSING}" in text
    for subject in ("Purpose and users", "Origin, collection and license of the images"):
        assert f"- {subject}: {MISSING}" in text
    unknown = ("fingerprint", "| class |", "Environment", "Exported", "None", "training ended")
    for absent in unknown:
        assert absent not in text


def test_the_numbers_are_those_of_the_run(finished_run: Run, run: Path) -> None:
    _, text = read(write_card(run))
    results = finished_run.results()
    test, classes = results["test"], results["test_classes"]
    interval = format_interval(test["accuracy"] * 32, 32)
    assert f"The test accuracy is {test['accuracy']:.2%}, with a 95 % interval from {interval}" in (
        text
    )
    assert sum(classes["images"]) == sum(classes["predicted"]) == 32
    assert sum(classes["correct"]) == pytest.approx(32 * test["accuracy"])
    rows = re.findall(r"^\| (\d) \| (\d+) \| (\d+) \| ", text, re.MULTILINE)
    expected = zip(finished_run.labels, classes["images"], classes["correct"], strict=True)
    assert rows == [tuple(map(str, each)) for each in expected]
    assert (
        f"The training ended after all of its 2 epochs. The model of epoch {results['best_epoch']}"
    )
    environment = json.loads((run / "environment.json").read_text("utf-8"))
    assert f"| tensorflow | {escape_markdown(environment['packages']['tensorflow'])} |" in text
    assert escape_markdown(environment["data_fingerprint"]) in text
    assert environment["process"]["host"] not in text


def test_paths_of_the_author_are_not_published(run: Path) -> None:
    config = (run / "config.toml").read_text("utf-8")
    config = config.replace('name = "digits"', 'name = "folder"')
    config = config.replace('path = ""', 'path = "/home/ada/secret/photos"')
    config = config.replace('corrections = ""', 'corrections = "/home/ada/secret/wrong.csv"')
    environment = json.loads((run / "environment.json").read_text("utf-8"))
    environment["corrections"] = {"labels_changed": 3, "images_excluded": 1}
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "config.toml").write_text(config)
    metadata, text = read(write_card(run))
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "imagefolder"
    assert metadata["model-index"][0]["results"][0]["dataset"]["name"] == "photos"
    assert "ada" not in text
    assert 'path = "photos"' in text
    assert 'corrections = "wrong.csv"' in text
    assert "| corrected labels, excluded images | 3, 1 |" in text


def test_a_test_split_that_chose_the_epoch_is_named(run: Path) -> None:
    sentence = "influenced neither the training nor the choice of the epoch."
    assert sentence in read(write_card(run))[1]
    config = (run / "config.toml").read_text("utf-8")
    config = config.replace(
        'validation_split = "validation[:32]"', 'validation_split = "test[:32]"'
    )
    (run / "config.toml").write_text(config)
    _, text = read(write_card(run))
    assert sentence not in text
    assert "chosen on the same images, so the accuracy on new images is probably lower." in text


HOSTILE = (
    "a|b",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "---",
    "`code`",
    "![](https://example.org/a.png)",
    "*bold* _em_ ~~x~~ $x$ @ada https://example.org",
    "\u202etxt.exe",
    "key: [value",
    "na\u00efve \U0001f600",
)


def test_labels_are_shown_as_they_are(run: Path) -> None:
    (run / "labels.txt").write_text("".join(f"{label}\n" for label in HOSTILE), "utf-8")
    path = write_card(run.rename(run.with_name('quick: "*[x]*')))
    metadata, text = read(path)
    assert metadata["model-index"][0]["name"] == 'quick: "*[x]*'
    rows = [line for line in text.splitlines() if re.search(r"\| \d+ \| \d+ \|", line)]
    assert len(rows) == len(HOSTILE)
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 7  # six cells
        assert not re.search(r"(?<!\\)[<`*\[!~$@]|\u202e|https:", row)
    assert "naïve \U0001f600" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_yaml_returns_what_was_written(text: str) -> None:
    def nest(text: str) -> dict[str, Any]:
        return {"name": text, "list": [{"one": text, "two": 1.5}, {"one": "x"}], "plain": [text]}

    shown = text if text.isprintable() else repr(text)[1:-1]
    assert yaml.safe_load(format_yaml(nest(text))) == nest(shown)


def test_a_code_block_cannot_be_ended_by_its_text() -> None:
    assert fence("a\n````\nb", "toml") == "`````toml\na\n````\nb\n`````"


def test_errors_of_the_command(run: Path, tmp_path: Path) -> None:
    (tmp_path / "models/other/1").mkdir(parents=True)
    (tmp_path / "models/damaged/1").mkdir(parents=True)
    (tmp_path / "models/damaged/1/model.json").write_text("{}")
    content = {"metrics": {"samples": 5, "accuracy": 0.5}, "parity": {"formats": {}}}
    for path, message in (
        (tmp_path / "models/other", "is not an exported model: it has no directory 1, 2, ..."),
        (tmp_path / "models/damaged", "is damaged"),
    ):
        with pytest.raises(RunError, match=message):
            write_card(run, model=path)
    (tmp_path / "models/other/1/model.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"has an accuracy of 0\.5 on 5 images, but the run"):
        write_card(run, model=tmp_path / "models/other")
    assert not (run / "card.md").exists()
    (run / "results.json").unlink()
    with pytest.raises(RunError, match="is not a finished run"):
        write_card(run)


def test_the_command_writes_the_card(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["card", str(run), "--license", "mit"])
    assert result.exit_code == 0, result.output
    assert result.output == f"{run}: {run / 'card.md'}\n"
    assert read(run / "card.md")[0]["license"] == "mit"
