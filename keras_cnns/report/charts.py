"""Diagrams as SVG for a page, drawn by matplotlib."""

import io
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

Series = Mapping[str, tuple[Any, Any]]  # name -> numbers on x, numbers on y

COLOURS = ("#1f5fd0", "#e0641a", "#14866d", "#a8328f", "#8a6d00", "#4a5560")
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and a reader can select it
    "text.parse_math": False,  # a label with two dollar signs is no formula
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#5b6570",
    "axes.edgecolor": "#b4bbc3",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "grid.color": "#e9ecef",
    "xtick.color": "#5b6570",
    "ytick.color": "#5b6570",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
}
SIZE = (5.4, 3.1)  # inches
FEW = 30  # points; each has a dot
NUMBERED = 20  # classes; a larger confusion matrix has no numbers in it


def draw(paint: Any, title: str, size: tuple[float, float] = SIZE) -> str:
    """Return the SVG that `paint(axes)` makes; its ids are its own within a page of charts."""
    with matplotlib.rc_context({**LOOK, "svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        paint(axes)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with warnings.catch_warnings():  # the reader's fonts count, not those of this machine
            warnings.filterwarnings("ignore", r"Glyph .* missing from font")
            figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]  # without the document type, which names a place on the web
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-z0-9A-Z.]+_\d+"', "", svg)  # matplotlib's groups, numbered in each SVG
    svg = re.sub(r"font(?:-family)?: (\d+px )?'DejaVu Sans'[^;\"]*", r"font-size: \1", svg)
    svg = svg.replace("font-size: ;", "")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def lines(
    title: str,
    series: Series,
    *,
    x: str,
    y: str,
    log: bool = False,
    percent: bool = False,
    log_x: bool = False,
    from_zero: bool = False,
    mark: tuple[float, str] | None = None,
    guide: tuple[float, str] | None = None,
) -> str:
    """Draw lines over x; "" where there is nothing to draw.

    Args:
        title: over the diagram.
        series: with their names for the legend; a name of "" has none. The place among them gives
            the colour, also where others have nothing to draw.
        x: what the x axis shows, with its unit.
        y: what the y axis shows.
        log: a logarithmic y axis; what is not above 0 is left out.
        percent: shares as percentages.
        log_x: a logarithmic x axis.
        from_zero: the y axis begins at 0.
        mark: a place on x, and its name.
        guide: a height on y, and its name.
    """
    finite = {name: _finite(xs, ys, log) for name, (xs, ys) in series.items()}
    colours = dict(zip(series, itertools.cycle(COLOURS), strict=False))
    finite = {name: pair for name, pair in finite.items() if pair[0].size}
    if not finite:
        return ""

    def paint(axes: Axes) -> None:
        for name, (xs, ys) in finite.items():
            marker = "o" if len(xs) <= FEW else ""
            axes.plot(xs, ys, color=colours[name], marker=marker, label=name or None)
        _finish(axes, x, y, log, percent)
        if from_zero:
            axes.set_ylim(bottom=0)
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if mark:
            axes.axvline(mark[0], color="#8a939d", linewidth=1, linestyle=":", label=mark[1])
        if guide:
            axes.axhline(guide[0], color="#8a939d", linewidth=1, linestyle="--", label=guide[1])
        if any(finite) or mark or guide:
            axes.legend(fontsize=8.5)

    return draw(paint, title)


def by_depth(
    title: str,
    profiles: Mapping[int, Sequence[float]],
    layers: Sequence[str],
    *,
    y: str,
    log: bool = False,
    percent: bool = False,
    limits: tuple[float, float] | None = None,
) -> str:
    """Draw a figure layer by layer, a line for each moment: {step: values by layer}.

    "" where there is nothing to draw.

    Diagrams that are to be compared are given the same `limits` of the y axis.
    """
    numbers = range(1, len(layers) + 1)
    finite = {step: _finite(numbers, values, log) for step, values in profiles.items()}
    if not any(xs.size for xs, _ in finite.values()):
        return ""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(profiles)))

    def paint(axes: Axes) -> None:
        for colour, (step, (xs, ys)) in zip(colours, finite.items(), strict=True):
            marker = "o" if len(layers) <= FEW else ""
            axes.plot(xs, ys, color=colour, marker=marker, linewidth=1.1, label=f"{step:,}")
        if limits:
            axes.set_ylim(limits)
        span = f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else layers[0]
        _finish(axes, f"layer in order of depth, {span}", y, log, percent)
        if percent:
            axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
        axes.legend(title="after step", fontsize=8.5, title_fontsize=8.5)

    return draw(paint, title)


def band(
    title: str,
    steps: np.ndarray,
    values: np.ndarray,
    *,
    y: str,
    guide: tuple[float, str] | None = None,
) -> str:
    """Draw the median over layers, and the range from the 5th to the 95th percentile: [S, L]."""
    moved = np.array([bool((row > 0).any()) for row in values], bool)
    if not moved.any():
        return ""
    steps, values = np.asarray(steps)[moved], np.where(values > 0, values, np.nan)[moved]
    low, middle, high = np.nanpercentile(values, (5, 50, 95), axis=1)

    def paint(axes: Axes) -> None:
        axes.fill_between(steps, low, high, alpha=0.18, linewidth=0, label="5th to 95th percentile")
        axes.plot(steps, middle, marker="o" if len(steps) <= FEW else "", label="median layer")
        _finish(axes, "training step", y, log=True, percent=False)
        if guide:
            axes.axhline(guide[0], color="#8a939d", linewidth=1, linestyle="--", label=guide[1])
        axes.legend(fontsize=8.5)

    return draw(paint, title)


def confusion(title: str, counts: np.ndarray, labels: Sequence[str]) -> str:
    """Draw a confusion matrix [K, K], true classes in rows; each row's colours are its shares."""
    classes = len(labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(1.6 + 0.42 * classes, 4.4, 8.4)) if classes <= NUMBERED else 5.4

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if classes > NUMBERED:
            axes.set_xlabel("predicted, number of the class")
            return
        places = range(classes)
        names = [shorten(label) for label in labels]
        is_long = max(map(len, names)) > 3
        axes.set_xticks(
            places, names, rotation=45 if is_long else 0, ha="right" if is_long else "center"
        )
        axes.set_yticks(places, names)
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.55 else "#1b1f24"
                axes.text(
                    column, row, str(counts[row, column]), ha="center", va="center", color=colour
                )

    return draw(paint, title, (side, side))


def reliability(
    title: str, confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray
) -> str:
    """Draw accuracy over confidence, bin by bin, and how many predictions each bin has."""
    edges = np.linspace(0, 1, len(counts) + 1)

    def paint(axes: Axes) -> None:
        width = edges[1] - edges[0]
        shares = counts / max(counts.sum(), 1)
        axes.bar(
            edges[:-1], shares, width, align="edge", color="#dfe4ea", label="share of predictions"
        )
        axes.plot([0, 1], [0, 1], color="#8a939d", linewidth=1, linestyle="--", label="calibrated")
        filled = counts > 0
        area = 12 + 160 * np.sqrt(shares[filled])
        axes.plot(confidence[filled], accuracy[filled], alpha=0.35)
        axes.scatter(
            confidence[filled],
            accuracy[filled],
            area,
            COLOURS[0],
            clip_on=False,
            zorder=3,
            label="accuracy; the area says of how many",
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _finish(axes, "confidence: the highest probability", "accuracy", False, True)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="best", fontsize=8.5)

    return draw(paint, title, (5.4, 4.2))


def shorten(label: str, length: int = 18) -> str:
    """Return a label that fits beside an axis."""
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _finish(axes: Axes, x: str, y: str, log: bool, percent: bool) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x in ("epoch", "training step")))
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        fine = (1, 2, 5) if high < 1e3 * low else (1,)  # ticks within a power of ten
        axes.yaxis.set_major_locator(LogLocator(subs=fine, numticks=9))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def _finite(xs: Sequence[float], ys: Sequence[float], log: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    keep = np.isfinite(y) & ((y > 0) if log else True)
    return x[keep], y[keep]
