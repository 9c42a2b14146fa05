"""The page of a real run, as a browser would load it."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from keras_cnns.report import write_report
from keras_cnns.training import Run, RunError

SECTIONS = [
    "Learning",
    "Gradient flow",
    "Activations",
    "Confusion",
    "Classes",
    "Calibration",
    "Worst mistakes",
    "Time",
    "Load the model",
    "Recipe",
    "Environment",
]
DIAGRAMS = [
    "Loss",
    "Accuracy",
    "Learning rate",
    "Gradient norm by depth",
    "Mean of the activations",
    "Standard deviation of the activations",
    "Dead ReLU channels",
    "Confusion, 32 images",
    "Reliability",
]
LOADING = {"script", "link", "iframe", "object", "embed", "video", "audio", "source", "base"}


class Reader(HTMLParser):
    """Keep headings, and whatever a browser would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.fetched: list[str] = []
        self.diagrams: list[str] = []
        self._in_heading = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_heading = tag == "h2"
        if tag in LOADING:
            self.fetched.append(tag)
        for name, value in attrs:
            place = value or ""
            if name in ("src", "href", "xlink:href", "action") and place[:1] != "#":
                self.fetched += [] if place.startswith("data:") else [place]
            if name == "aria-label":
                self.diagrams.append(place)

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
    assert [name for name in DIAGRAMS if name not in page.diagrams] == []
    assert f"{finished_run.results()['test']['accuracy']:.2%}" in html
    assert "expected calibration error over 15 bins" in html
    assert re.search(r"<td>packages.keras</td><td>3\.", html)


def test_it_fetches_nothing(html: str) -> None:
    assert Reader(html).fetched == []
    assert "default-src 'none'" in html
    assert re.findall(r"@import|url\((?!#)", html) == []
    assert len(html) < 1_000_000


def test_labels_and_names_are_escaped(html: str) -> None:
    assert "<img src=x" not in html
    assert "&lt;img src=x3&gt;$" in html
    assert "<h1>a &amp; &lt;b&gt;</h1>" in html


def test_of_a_training_that_is_not_finished_there_is_what_there_is(
    finished_run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "stopped"
    shutil.copytree(finished_run.path, path)
    for name in ("results.json", "model.keras", "times.csv"):
        (path / name).unlink(missing_ok=True)
    html = write_report(path).read_text("utf-8")
    wanted = [name for name in SECTIONS if name not in (*SECTIONS[3:7], "Time")]
    assert Reader(html).headings == wanted
    assert "not finished: epochs" in html


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (None, "", "there is no run directory"),
        ("labels.txt", None, "has no config.toml and labels.txt"),
        ("history.csv", "epoch,loss\n0,a lot\n", "holds a damaged file"),
        ("config.toml", "[model]\n", "config.toml: "),
    ],
)
def test_what_is_no_run_is_refused(
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
