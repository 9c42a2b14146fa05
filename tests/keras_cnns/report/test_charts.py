"""Charts: their texts, colours and descriptions."""

import io
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from keras_cnns.report import charts
from keras_cnns.report.page import Chart

HOSTILE = '<b>$x$ & "y"</b>'
LINES = {"training": ([1, 2, 3], [0.5, 0.2, 0.1]), HOSTILE: ([1, 2, 3], [0.6, 0.3, np.nan])}
ALL = {
    "lines": charts.lines("One", LINES, x="epoch", y="loss", log=True, mark=(2, "best")),
    "by_depth": charts.by_depth("Two", {0: [1, 2], 50: [3, 4]}, ["first", HOSTILE], y="norm"),
    "band": charts.band(
        "Three", np.array([0, 50]), np.array([[0, 0], [1e-3, 2e-3]]), y="ratio", guide=(1e-3, "g")
    ),
    "confusion": charts.confusion("Four", np.array([[5, 1], [0, 4]]), ["cat", HOSTILE]),
    "reliability": charts.reliability(
        "Five", np.array([np.nan, 0.9]), np.array([np.nan, 0.8]), np.array([0, 7])
    ),
    "bars": charts.bars("Six", {"one": 0.75, HOSTILE: 0.25}, x="fraction", percent=True),
    "parallel_coordinates": charts.parallel_coordinates(
        "Seven",
        {"decay": ([0, 1, np.nan], [(0, "0.1"), (1, HOSTILE)]), HOSTILE: ([0, 0.5, 1], [])},
        [0, 0.5, 1],
        y="height",
        marked={"best": 1},
        dashed=("pruned", [0]),
    ),
}


def texts(chart: Chart | None) -> list[str]:
    assert chart
    return [each.text or "" for each in ElementTree.fromstring(chart.svg).iter() if each.text]


@pytest.mark.parametrize("name", ALL)
def test_it_is_svg_with_named_axes_and_nothing_from_elsewhere(name: str) -> None:
    chart = ALL[name]
    assert chart
    svg = chart.svg
    shown = " ".join([chart.title, *texts(chart)])
    expected = {
        "lines": ("One", "epoch", "loss", "training", HOSTILE, "best"),
        "by_depth": ("Two", f"layer in order of depth, first to {HOSTILE}", "norm", "after step"),
        "band": ("Three", "training step", "ratio", "median layer"),
        "confusion": ("Four", "predicted", "true", "cat", HOSTILE, "5", "1", "4"),
        "reliability": ("Five", "confidence: the highest probability", "accuracy", "calibrated"),
        "bars": ("Six", "fraction", "one", HOSTILE, "0%"),
        "parallel_coordinates": ("Seven", "height", "decay", "0.1", "best", "pruned"),
    }[name]
    assert [words for words in expected if words not in shown] == []
    assert "<b>" not in svg
    links = re.findall(r"(?:href|src)=\"([^\"]+)\"|url\(([^)]+)\)", svg)
    assert all("".join(link).startswith(("#", "data:")) for link in links)


def test_ids_are_unique_and_every_reference_is_to_one() -> None:
    for chart in ALL.values():
        assert chart
        ids = re.findall(r'\bid="([^"]+)"', chart.svg)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', chart.svg)) <= set(ids)


def test_the_description_names_the_axes_and_the_legend() -> None:
    chart = ALL["lines"]
    assert chart
    assert chart.description == f"One: loss against epoch (training; {HOSTILE}; best)"
    without_x = ALL["parallel_coordinates"]
    assert without_x
    assert without_x.description == "Seven: height (best; pruned)"


def test_the_same_numbers_give_the_same_file() -> None:
    again = charts.lines("One", LINES, x="epoch", y="loss", log=True, mark=(2, "best"))
    assert again == ALL["lines"]


@pytest.mark.parametrize(
    "chart",
    [
        charts.lines("t", {}, x="x", y="y"),
        charts.lines("t", {"a": ([1], [float("nan")])}, x="x", y="y"),
        charts.by_depth("t", {}, [], y="y"),
        charts.by_depth("t", {1: [0.0, float("nan")]}, ["a", "b"], y="y", log=True),
        charts.band("t", np.array([]), np.zeros((0, 0)), y="y"),
        charts.bars("t", {}, x="x"),
        charts.parallel_coordinates("t", {"a": ([], [])}, [], y="y"),
    ],
)
def test_without_values_there_is_no_chart(chart: Chart | None) -> None:
    assert chart is None


def test_a_name_in_any_script_is_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = charts.confusion("t", np.eye(2, dtype=int), ["日本", "猫"])
    assert {"日本", "猫"} <= set(texts(chart))


def test_a_series_keeps_its_colour_where_another_has_no_values() -> None:
    runs = {"first": ([], []), "second": ([1, 2], [0.5, 0.4]), "third": ([1, 2], [0.3, 0.2])}
    chart = charts.lines("t", runs, x="epoch", y="loss")
    assert chart
    lines = {colour: f"stroke: {colour}" in chart.svg for colour in charts.COLOURS}
    assert [colour for colour in lines if lines[colour]] == list(charts.COLOURS[1:3])


def test_labels_are_shortened() -> None:
    assert charts.shorten("a" * 18) == "a" * 18
    assert charts.shorten("a" * 19) == "a" * 17 + "…"


def test_paths_grow_in_an_animation() -> None:
    paths = {"fast": (1, [[1.0, 1.0], [0.0, 0.0]]), "slow": (10, [[1.0, 1.0]] * 4)}
    animation = charts.animate_contours(
        "Descent", lambda points: (points**2).sum(-1), ((-1, 1), (-1, 1)), paths
    )
    assert "end after these numbers of steps: 1 (fast), 30 (slow)" in animation.description
    assert animation.file_name == "descent"
    with Image.open(io.BytesIO(animation.gif)) as image:
        assert image.n_frames > 10  # type: ignore[attr-defined]
        first = np.asarray(image.convert("RGB"))
        image.seek(image.n_frames - 1)  # type: ignore[attr-defined]
        assert (first != np.asarray(image.convert("RGB"))).any()
