"""The page of a trained run, as a browser would load it."""

import csv
import itertools
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import keras
import numpy as np
import pytest

from keras_cnns.report import write_report
from keras_cnns.report.records import read_records
from keras_cnns.report.run_report import render
from keras_cnns.runs.predictions import collect
from keras_cnns.training import Run, RunError

SECTIONS = [
    "Findings",
    "Learning",
    "Classes",
    "Confusion",
    "Mistakes",
    "Calibration",
    "Thresholds",
    "Training images",
    "Gradient flow",
    "Activations",
    "Time",
    "Load the model",
    "Recipe",
    "Environment",
]
CHARTS = [
    "Loss",
    "Accuracy",
    "Learning rate",
    "Gradient norm by depth",
    "Gradient norm, first layer divided by last",
    "Mean of the activations",
    "Standard deviation of the activations",
    "Dead ReLU channels",
    "Confusion, 32 images",
    "Reliability",
    "Accuracy against coverage",
]
SCROLLS = r'class="scroll" tabindex="0" role="region" aria-label="[^"]+"'
LOADING = {"script", "link", "iframe", "object", "embed", "video", "audio", "source", "base"}


class Reader(HTMLParser):
    """Collects the headings, the charts, and the addresses that a browser would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.fetched: list[str] = []
        self.charts: list[str] = []
        self._in_heading = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_heading = tag == "h2"
        if tag in LOADING:
            self.fetched.append(tag)
        for name, value in attrs:
            text = value or ""
            if name in ("src", "href", "xlink:href", "action") and text[:1] != "#":
                self.fetched += [] if text.startswith("data:") else [text]
            if name == "alt":
                self.charts.append(text.partition(":")[0])

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.headings.append(data)
            self._in_heading = False


def change(run: Path, name: str, old: str, new: str) -> None:
    (run / name).write_text((run / name).read_text().replace(old, new))


@pytest.fixture(scope="module")
def run(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose labels are hostile."""
    path = tmp_path_factory.mktemp("report") / "a & <b>"
    shutil.copytree(finished_run.path, path)
    labels = finished_run.labels
    (path / "labels.txt").write_text("".join(f"<img src=x{label}>$\n" for label in labels))
    return path


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text("utf-8")


def test_it_has_every_part(html: str, finished_run: Run) -> None:
    page = Reader(html)
    assert page.headings == SECTIONS
    assert [name for name in CHARTS if name not in page.charts] == []
    assert f"{finished_run.results()['test']['accuracy']:.2%}" in html
    assert "expected calibration error over 15 bins" in html
    assert "The training ended after all of its 2 epochs. The model of epoch" in html
    assert re.search(r"<td>packages.keras</td><td>3\.", html)


def test_it_fetches_nothing(html: str) -> None:
    assert Reader(html).fetched == []
    assert "default-src 'none'" in html
    assert re.findall(r"@import|url\((?!#)", html) == []
    assert len(html) < 1_000_000


def test_results_and_contents_come_first(html: str) -> None:
    links = re.findall(r'<a href="#(section-\d+)">([^<]+)</a>', html)
    assert [title for _, title in links] == SECTIONS
    assert [name for name, _ in links] == re.findall(r'<section id="([^"]+)">', html)
    assert html.index("balanced accuracy") < html.index("<nav") < html.index("<h2>Findings</h2>")


def test_the_first_training_images_are_shown_with_their_labels(html: str) -> None:
    section = html.partition("<h2>Training images</h2>")[2].partition("</section>")[0]
    assert section.count("<img") == 24
    assert re.findall(r'class="pixels" alt="\d"', section)


def test_mistakes_show_name_and_link_their_files(finished_run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    path = tmp_path / "runs" / "first"
    shutil.copytree(finished_run.path, path)
    records = read_records(path)
    recipe = records.run.recipe
    data = replace(recipe.data, name="folder", path=str(photos))
    records = replace(records, run=replace(records.run, recipe=replace(recipe, data=data)))
    files = [photos / "3" / name for name in ("a #1?.png", "=1+1.png", "javascript:x.png")]
    images = np.zeros((3, 1, 1, 10), np.uint8)
    images[..., 5] = 1  # every image is classified as 5
    model = keras.Sequential([keras.Input((1, 1, 10)), keras.layers.Flatten()])
    found = collect(model, [(images, np.array([3, 3, 3]))], path_of=files.__getitem__)
    shown = [replace(each, image=images[0, ..., :1]) for each in found.mistakes]
    predictions = replace(found, mistakes=tuple(shown))
    html = render(records, predictions)
    links = re.findall(r'<a href="([^#"][^"]*)">([^<]+)</a>', html)
    assert links == [
        ("../../photos/3/a%20%231%3F.png", "3/a #1?.png"),
        ("../../photos/3/%3D1%2B1.png", "3/=1+1.png"),
        ("../../photos/3/javascript%3Ax.png", "3/javascript:x.png"),
    ]
    for (address, _), file in zip(links, files, strict=True):
        assert (path / unquote(address)).resolve() == file.resolve()
    labels = (path / "labels.txt").read_text("utf-8").replace("5", "=5")
    (path / "labels.txt").write_text(labels, "utf-8")
    write_report(path, predictions)
    with (path / "mistakes.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["file"] for row in rows] == [str(file) for file in files]
    assert {(row["label"], row["predicted"]) for row in rows} == {("3", "'=5")}  # no formula


def test_mistakes_csv_lists_every_mistake_by_confidence(run: Path, html: str) -> None:
    with (run / "mistakes.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    test = json.loads((run / "results.json").read_text())["test"]
    assert len(rows) == round(test["samples"] * (1 - test["accuracy"])) > 0
    confidences = [float(row["confidence"]) for row in rows]
    assert confidences == sorted(confidences, reverse=True)
    assert {row["file"] for row in rows} == {""}  # the digits are not files
    assert all(f"test image {row['index']}<" in html for row in rows)


def test_labels_and_names_are_escaped(html: str) -> None:
    assert "<img src=x" not in html
    assert "&lt;img src=x3&gt;$" in html
    assert "<h1>a &amp; &lt;b&gt;</h1>" in html


def test_an_unfinished_training_has_the_parts_that_exist(finished_run: Run, tmp_path: Path) -> None:
    path = tmp_path / "stopped"
    shutil.copytree(finished_run.path, path)
    for name in ("results.json", "model.keras", "times.csv"):
        (path / name).unlink(missing_ok=True)
    html = write_report(path).read_text("utf-8")
    wanted = [name for name in SECTIONS if name not in ("Findings", *SECTIONS[2:7], "Time")]
    assert Reader(html).headings == wanted
    assert "epochs so far; the training is not finished" in html


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (None, "", "there is no run directory"),
        ("labels.txt", None, "lacks config.toml or labels.txt"),
        ("history.csv", "epoch,loss\n0,a lot\n", "holds a damaged file"),
        ("config.toml", "[model]\n", "config.toml: "),
    ],
)
def test_other_directories_are_rejected(
    finished_run: Run, tmp_path: Path, name: str | None, text: str | None, message: str
) -> None:
    path = tmp_path / "run"
    if name is not None:
        shutil.copytree(finished_run.path, path)
        (path / name).unlink()
        if text is not None:
            (path / name).write_text(text)
    with pytest.raises(RunError, match=message):
        write_report(path)


def test_headings_are_in_order_and_wide_content_scrolls_by_keyboard(html: str) -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1
    assert all(following <= level + 1 for level, following in itertools.pairwise(levels))
    assert html.count("<main>") == html.count("<h1>") == 1
    for wide in ("<table", "<pre", '<div class="charts"'):
        assert html.count(wide) == len(re.findall(rf"<div {SCROLLS}>\s*{wide}", html)) > 0
