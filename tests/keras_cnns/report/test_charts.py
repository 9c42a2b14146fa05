"""Diagrams: what is in them, and that a page may hold several."""

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from keras_cnns.report import charts

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
}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.text]


@pytest.mark.parametrize("name", ALL)
def test_it_is_svg_with_named_axes_and_nothing_from_elsewhere(name: str) -> None:
    svg = ALL[name]
    said = " ".join(texts(svg))
    expected = {
        "lines": ("One", "epoch", "loss", "training", HOSTILE, "best"),
        "by_depth": ("Two", f"layer in order of depth, first to {HOSTILE}", "norm", "after step"),
        "band": ("Three", "training step", "ratio", "median layer"),
        "confusion": ("Four", "predicted", "true", "cat", HOSTILE, "5", "1", "4"),
        "reliability": ("Five", "confidence: the highest probability", "accuracy", "calibrated"),
    }[name]
    assert [words for words in expected if words not in said] == []
    assert "<b>" not in svg
    links = re.findall(r"(?:href|src)=\"([^\"]+)\"|url\(([^)]+)\)", svg)
    assert all("".join(link).startswith(("#", "data:")) for link in links)


def test_ids_are_unique_over_a_page_and_every_reference_has_its_own() -> None:
    ids = [found for svg in ALL.values() for found in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in ALL.values():
        own = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) <= own


def test_the_same_figures_give_the_same_file() -> None:
    again = charts.lines("One", LINES, x="epoch", y="loss", log=True, mark=(2, "best"))
    assert again == ALL["lines"]


@pytest.mark.parametrize(
    "svg",
    [
        charts.lines("t", {}, x="x", y="y"),
        charts.lines("t", {"a": ([1], [float("nan")])}, x="x", y="y"),
        charts.by_depth("t", {}, [], y="y"),
        charts.by_depth("t", {1: [0.0, float("nan")]}, ["a", "b"], y="y", log=True),
        charts.band("t", np.array([]), np.zeros((0, 0)), y="y"),
    ],
)
def test_nothing_is_drawn_of_nothing(svg: str) -> None:
    assert svg == ""


def test_a_name_in_any_script_is_drawn_without_a_word_of_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = charts.confusion("t", np.eye(2, dtype=int), ["日本", "猫"])
    assert {"日本", "猫"} <= set(texts(svg))


def test_a_series_keeps_its_colour_where_another_has_nothing_to_draw() -> None:
    runs = {"first": ([], []), "second": ([1, 2], [0.5, 0.4]), "third": ([1, 2], [0.3, 0.2])}
    svg = charts.lines("t", runs, x="epoch", y="loss")
    lines = {colour: f"stroke: {colour}" in svg for colour in charts.COLOURS}
    assert [colour for colour in lines if lines[colour]] == list(charts.COLOURS[1:3])


def test_labels_are_shortened() -> None:
    assert charts.shorten("a" * 18) == "a" * 18
    assert charts.shorten("a" * 19) == "a" * 17 + "…"
