"""Charts as SVG images, drawn by matplotlib."""

import io
import itertools
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from PIL import Image

from keras_cnns.report.page import Animation, Chart

Series = Mapping[str, tuple[Any, Any]]  # name -> x values, y values
Limits = tuple[tuple[float, float], tuple[float, float]]  # the ranges of x and y

COLOURS = ("#1f5fd0", "#e0641a", "#14866d", "#a8328f", "#8a6d00", "#4a5560")
# Colour, dashes and marker of each line, so that lines can be distinguished even in a grey print.
_STYLES = tuple(
    zip(COLOURS * 2, ["-"] * 6 + ["--"] * 6, ["o", "s", "^", "D", "v", "P"] * 2, strict=True)
)
_GREY = "#8a939d"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text is not converted to paths, which keeps the file small
    "text.parse_math": False,  # a label with two dollar signs is no formula
    "font.size": 9,
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
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
}
_SIZE = (5.4, 3.1)  # inches
_CONTOURS_SIZE = (5.4, 4.2)  # inches
_FRAMES, _FRAME_MS, _LAST_FRAME_MS = 50, 120, 2000  # number and durations of an animation's frames
_GIF_DPI = 100
_PNG_DPI = 200  # results in a width of 1080 pixels, for a slide
_MAX_MARKERS = 30  # a line with more points has no markers
_MAX_NUMBERED_CLASSES = 20  # a larger confusion matrix contains no numbers
_FONT = 'font-family="system-ui, sans-serif"'


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
    points: Collection[str] = (),
) -> Chart | None:
    """Draw lines; return None if there is no finite value.

    Args:
        title: the chart's title.
        series: name in the legend -> line; a line with the name "" is not in the legend. The
            colour of a line depends on its index in `series`. It does not change if other lines
            have no values and are not drawn.
        x: the label of the x axis, with its unit.
        y: the label of the y axis.
        log: whether the y axis is logarithmic; values that are not above 0 are left out.
        percent: whether the y axis shows fractions as percentages.
        log_x: whether the x axis is logarithmic.
        from_zero: whether the y axis begins at 0.
        mark: the x value of a vertical line, and its name.
        points: the names whose values are drawn as circles without a line; the other lines then
            have no markers.
    """
    finite = {name: _finite(xs, ys, log) for name, (xs, ys) in series.items()}
    colours = dict(zip(series, itertools.cycle(COLOURS), strict=False))
    finite = {name: pair for name, pair in finite.items() if pair[0].size}
    if not finite:
        return None

    def paint(axes: Axes) -> None:
        for name, (xs, ys) in finite.items():
            style: dict[str, Any] = {"marker": "" if points else _marker(xs)}
            if name in points:
                style = {"marker": "o", "linestyle": "", "fillstyle": "none"}
            axes.plot(xs, ys, color=colours[name], label=name or None, **style)
        _finish(axes, x, y, log, percent)
        if from_zero:
            axes.set_ylim(bottom=0)
        if log_x:
            _make_x_logarithmic(axes)
        if mark:
            axes.axvline(mark[0], color=_GREY, linewidth=1, linestyle=":", label=mark[1])
        if any(finite) or mark:
            axes.legend()

    return _draw(paint, title)


def by_depth(
    title: str,
    profiles: Mapping[int, Sequence[float]],
    layers: Sequence[str],
    *,
    y: str,
    log: bool = False,
    percent: bool = False,
    limits: tuple[float, float] | None = None,
) -> Chart | None:
    """Draw a metric against the depth of the layers; return None if there is no finite value.

    Args:
        title: the chart's title.
        profiles: training step -> the values of all layers; each step is a line.
        layers: the names of the layers, in order of depth.
        y: the label of the y axis.
        log: whether the y axis is logarithmic; values that are not above 0 are left out.
        percent: whether the y axis shows fractions as percentages.
        limits: the range of the y axis; it should be the same in charts that are compared.
    """
    depths = range(1, len(layers) + 1)
    finite = {step: _finite(depths, values, log) for step, values in profiles.items()}
    if not any(xs.size for xs, _ in finite.values()):
        return None
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(profiles)))

    def paint(axes: Axes) -> None:
        for colour, (step, (xs, ys)) in zip(colours, finite.items(), strict=True):
            if xs.size:
                label = f"{step:,}"
                axes.plot(xs, ys, color=colour, marker=_marker(layers), linewidth=1.1, label=label)
        if limits:
            axes.set_ylim(limits)
        span = f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else layers[0]
        _finish(axes, f"layer in order of depth, {span}", y, log, percent)
        if percent:
            axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
        axes.legend(title="after step")

    return _draw(paint, title)


def band(
    title: str,
    steps: np.ndarray,
    values: np.ndarray,
    *,
    y: str,
    guide: tuple[float, str] | None = None,
) -> Chart | None:
    """Draw the median over the layers and the range of the central 90 % for each training step.

    The values have the shape [steps, layers]. Values that are not above 0 are left out. Return None
    if no value remains.
    """
    has_values = np.array([bool((row > 0).any()) for row in values], bool)
    if not has_values.any():
        return None
    steps, values = np.asarray(steps)[has_values], np.where(values > 0, values, np.nan)[has_values]
    low, middle, high = np.nanpercentile(values, (5, 50, 95), axis=1)

    def paint(axes: Axes) -> None:
        axes.fill_between(steps, low, high, alpha=0.18, linewidth=0, label="5th to 95th percentile")
        axes.plot(steps, middle, marker=_marker(steps), label="median layer")
        _finish(axes, "training step", y, log=True, percent=False)
        if guide:
            axes.axhline(guide[0], color=_GREY, linewidth=1, linestyle="--", label=guide[1])
        axes.legend()

    return _draw(paint, title)


def mean_lines(
    title: str,
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    x: str,
    y: str,
    xs: Sequence[float] | None = None,
    log: bool = False,
    log_x: bool = False,
    percent: bool = False,
) -> Chart | None:
    """Draw the mean curve over several seeds, and the range of all seeds as a band around it.

    Args:
        title: the chart's title.
        series: name -> one curve for each seed. All curves of a name have the same length; the
            curves of another name may have another length.
        x: the label of the x axis, with its unit.
        y: the label of the y axis.
        xs: the x values; if None, they are 1, 2, 3, ...
        log: whether the y axis is logarithmic; values that are not above 0 are left out.
        log_x: whether the x axis is logarithmic.
        percent: whether the y axis shows fractions as percentages.

    Returns:
        The chart, or None if there is no finite value.
    """
    arrays = {name: np.asarray(curves, float) for name, curves in series.items()}
    for name, curves in arrays.items():
        is_shown = np.isfinite(curves) & ((curves > 0) if log else True)
        arrays[name] = np.where(is_shown, curves, np.nan)
    if all(np.isnan(curves).all() for curves in arrays.values()):
        return None

    def paint(axes: Axes) -> None:
        for (name, curves), style in zip(arrays.items(), itertools.cycle(_STYLES)):
            shown = ~np.isnan(curves).all(axis=0)
            points = np.asarray(xs or range(1, curves.shape[1] + 1), float)[shown]
            values = curves[:, shown]
            if not points.size:
                continue
            colour, dashes, marker = style
            middle = np.exp(np.nanmean(np.log(values), 0)) if log else np.nanmean(values, 0)
            axes.fill_between(
                points,
                np.nanmin(values, 0),
                np.nanmax(values, 0),
                color=colour,
                alpha=0.16,
                linewidth=0,
            )
            axes.plot(
                points,
                middle,
                color=colour,
                linestyle=dashes,
                marker=marker,
                markevery=max(1, len(points) // 10),
                label=name,
            )
        _finish(axes, x, y, log, percent)
        if log_x:
            _make_x_logarithmic(axes)
        axes.legend()

    return _draw(paint, title)


def dots(
    title: str,
    values: Mapping[str, Sequence[float]],
    *,
    y: str,
    log: bool = False,
    percent: bool = False,
    guide: tuple[float, str] | None = None,
) -> Chart | None:
    """Draw a dot for each seed and a line at the mean, for several names side by side.

    Args:
        title: the chart's title.
        values: name -> the value of each seed.
        y: the label of the y axis.
        log: whether the y axis is logarithmic; values that are not above 0 are left out.
        percent: whether the y axis shows fractions as percentages.
        guide: the y value of a horizontal line, and its name.

    Returns:
        The chart, or None if there is no finite value.
    """
    finite = {name: _finite(range(len(each)), each, log)[1] for name, each in values.items()}
    if not any(each.size for each in finite.values()):
        return None

    def paint(axes: Axes) -> None:
        for place, each in enumerate(finite.values()):
            offsets = np.linspace(-0.15, 0.15, len(each)) if len(each) > 1 else np.zeros(len(each))
            axes.plot(place + offsets, each, "o", color=COLOURS[0], alpha=0.7)
            if each.size:
                axes.hlines(each.mean(), place - 0.28, place + 0.28, color=COLOURS[1])
        _finish(axes, "", y, log, percent)
        if guide:
            axes.axhline(guide[0], color=_GREY, linewidth=1, linestyle="--", label=guide[1])
            axes.legend()
        names = [shorten(name, 26) for name in finite]
        is_long = max(map(len, names)) * len(names) > 60
        axes.set_xticks(
            range(len(names)),
            names,
            rotation=30 if is_long else 0,
            ha="right" if is_long else "center",
        )

    return _draw(paint, title)


def bars(title: str, values: Mapping[str, float], *, x: str, percent: bool = False) -> Chart | None:
    """Draw horizontal bars, the first name at the top; return None if there are no values."""
    if not values:
        return None

    def paint(axes: Axes) -> None:
        names = [shorten(name, 26) for name in values]
        axes.barh(range(len(names)), list(values.values()), color=COLOURS[0], height=0.6)
        _finish(axes, x, "", log=False, percent=False)
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")

    return _draw(paint, title)


def parallel_coordinates(
    title: str,
    columns: Mapping[str, tuple[Sequence[float], Sequence[tuple[float, str]]]],
    colours: Sequence[float],
    *,
    y: str,
    marked: Mapping[str, int] = MappingProxyType({}),
    dashed: tuple[str, Collection[int]] = ("", ()),
) -> Chart | None:
    """Draw each item as a line that crosses one vertical axis for each column.

    Args:
        title: the chart's title.
        columns: the name of an axis -> the height of each item on it, from 0 to 1, and the labels
            of the axis as pairs of height and text. If the height of an item is NaN, its line does
            not reach this axis.
        colours: a number from 0 to 1 for each item, from bright to dark.
        y: the meaning of the heights.
        marked: name in the legend -> index of an item whose line is thick, above the others and in
            another colour.
        dashed: a name in the legend, and the indices of items with dashed lines.

    Returns:
        The chart, or None if there are no items.
    """
    if not len(colours):
        return None

    def paint(axes: Axes) -> None:
        palette = matplotlib.colormaps["viridis_r"]
        heights = np.array([each for each, _ in columns.values()], float)
        others = [item for item in range(len(colours)) if item not in marked.values()]
        for item in sorted(others, key=lambda item: colours[item]):
            axes.plot(
                heights[:, item],
                color=palette(0.1 + 0.9 * colours[item]),
                linestyle="--" if item in dashed[1] else "-",
                linewidth=1.0,
                marker="o",
            )
        for (name, item), colour in zip(marked.items(), itertools.cycle(COLOURS)):
            axes.plot(heights[:, item], color=colour, linewidth=2.6, marker="o", label=name)
        if dashed[1]:
            axes.plot([], [], color=_GREY, linestyle="--", linewidth=1.0, label=dashed[0])
        for place, (_, labels) in enumerate(columns.values()):
            axes.axvline(place, color=_GREY, linewidth=0.8)
            for height, text in labels:
                axes.text(
                    place + 0.03,
                    height,
                    shorten(text, 12),
                    color="#3d464f",
                    size=8,
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
                    zorder=4,
                )
        _finish(axes, "", y, log=False, percent=False)
        axes.grid(visible=False)
        axes.set_yticks([])
        axes.set_ylim(-0.06, 1.06)
        axes.set_xlim(-0.1, len(columns) - 0.6)
        names = [shorten(name, 18) for name in columns]
        axes.set_xticks(range(len(columns)), names)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        if marked or dashed[1]:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4)

    return _draw(paint, title, (10.6, 3.6))


def contours(
    title: str,
    value: Callable[[np.ndarray], np.ndarray],
    limits: Limits,
    paths: Mapping[str, Sequence[Sequence[float]]],
) -> Chart:
    """Draw the contour lines of a function of two variables, and the paths of optimizers on it.

    Args:
        title: the chart's title.
        value: the function, points [..., 2] -> values [...].
        limits: the ranges of x and y.
        paths: name -> points [steps, 2]; the first point is marked.
    """
    return _draw(lambda axes: _paint_contours(axes, value, limits, paths), title, _CONTOURS_SIZE)


def _paint_contours(
    axes: Axes,
    value: Callable[[np.ndarray], np.ndarray],
    limits: Limits,
    paths: Mapping[str, Any],
) -> None:
    (left, right), (bottom, top) = limits
    xs, ys = np.meshgrid(np.linspace(left, right, 160), np.linspace(bottom, top, 160))
    heights = value(np.stack([xs, ys], axis=-1))
    # The logarithms of the levels are equally spaced, so that both the bottom and the slopes of a
    # valley are visible.
    offset = np.log(heights - heights.min() + 1e-2 * np.ptp(heights) / 10)
    axes.contour(xs, ys, offset, levels=14, colors="#c3c9d0", linewidths=0.8)
    for (name, points), style in zip(paths.items(), itertools.cycle(_STYLES)):
        colour, dashes, marker = style
        x, y = np.asarray(points, float).T
        axes.plot(
            x,
            y,
            color=colour,
            linestyle=dashes,
            marker=marker,
            markevery=max(1, len(x) // _MAX_MARKERS),
            markersize=2.2,
            label=name,
        )
        axes.plot(x[:1], y[:1], "o", color="#1b1f24", markersize=5)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    _finish(axes, "x", "y", log=False, percent=False)
    axes.legend(loc="lower right")


def animate_contours(
    title: str,
    value: Callable[[np.ndarray], np.ndarray],
    limits: Limits,
    paths: Mapping[str, tuple[int, Sequence[Sequence[float]]]],
) -> Animation:
    """Animate the paths of optimizers on the contour lines of a function.

    All paths grow at the same time, step by step. The animation is slow at first, to show the first
    steps, and becomes faster, to show the longest path until its end.

    Args:
        title: the title.
        value: the function, points [..., 2] -> values [...].
        limits: the ranges of x and y.
        paths: name -> the number of steps from one point to the next, and the points [N, 2].
    """
    points = {name: np.asarray(each, float) for name, (_, each) in paths.items()}
    steps = {name: every for name, (every, _) in paths.items()}
    ends = {name: steps[name] * (len(each) - 1) for name, each in points.items()}
    shown = np.geomspace(1, max(ends.values()) + 1, _FRAMES).round().astype(int) - 1
    frames = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_CONTOURS_SIZE, dpi=_GIF_DPI, layout="constrained")
        axes = figure.add_subplot()
        _paint_contours(axes, value, limits, {name: each[:1] for name, each in points.items()})
        axes.set_title(title)
        label = axes.text(0.02, 0.02, "", transform=axes.transAxes, animated=True)
        moving = axes.get_lines()[::2]  # every second line is the mark at the start of a path
        for line in moving:
            line.set_animated(True)
        canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)
        for step in np.unique(shown):
            canvas.restore_region(background)
            for line, (name, each) in zip(moving, points.items(), strict=True):
                line.set_data(*each[: step // steps[name] + 1].T)
                axes.draw_artist(line)
            label.set_text(f"step {step:,}")
            axes.draw_artist(label)
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    file = io.BytesIO()
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    palette = frames[len(frames) // 2].quantize(128)
    first, *rest = (each.quantize(palette=palette, dither=Image.Dither.NONE) for each in frames)
    first.save(file, "gif", save_all=True, append_images=rest, duration=durations, loop=0)
    text = ", ".join(f"{end:,} ({name})" for name, end in ends.items())
    return Animation(
        title,
        f"{title}: the paths grow step by step, and end after these numbers of steps: {text}",
        file.getvalue(),
    )


def confusion(title: str, counts: np.ndarray, labels: Sequence[str]) -> Chart:
    """Draw a confusion matrix [K, K], true classes in rows.

    The colour of a cell shows its count as a fraction of the sum of its row.
    """
    classes = len(labels)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_numbered = classes <= _MAX_NUMBERED_CLASSES
    side = float(np.clip(1.6 + 0.42 * classes, 4.4, 8.4)) if is_numbered else 5.4

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xlabel("predicted" if is_numbered else "predicted class, by index")
        axes.set_ylabel("true" if is_numbered else "true class, by index")
        if not is_numbered:
            return
        names = [shorten(label) for label in labels]
        is_long = max(map(len, names)) > 3
        axes.set_xticks(
            range(classes),
            names,
            rotation=45 if is_long else 0,
            ha="right" if is_long else "center",
        )
        axes.set_yticks(range(classes), names)
        for row, column in np.argwhere(counts):
            colour = "white" if fractions[row, column] > 0.55 else "#1b1f24"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)

    return _draw(paint, title, (side, side))


def reliability(
    title: str, confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray
) -> Chart:
    """Draw accuracy against confidence for each bin, and the fraction of images in the bin."""

    def paint(axes: Axes) -> None:
        width = 1 / len(counts)
        fractions = counts / max(counts.sum(), 1)
        axes.bar(
            np.arange(len(counts)) * width,
            fractions,
            width,
            align="edge",
            color="#dfe4ea",
            label="fraction of the images",
        )
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--", label="calibrated")
        filled = counts > 0
        axes.plot(confidence[filled], accuracy[filled], alpha=0.35)
        axes.scatter(
            confidence[filled],
            accuracy[filled],
            12 + 160 * np.sqrt(fractions[filled]),
            COLOURS[0],
            clip_on=False,
            zorder=3,
            label="accuracy (larger circle: more images)",
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _finish(axes, "confidence: the highest probability", "accuracy", False, True)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="best")

    return _draw(paint, title, (5.4, 4.2))


def shorten(label: str, length: int = 18) -> str:
    """Return a label that fits beside an axis."""
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _draw(paint: Callable[[Axes], None], title: str, size: tuple[float, float] = _SIZE) -> Chart:
    """Return the chart that `paint` draws."""
    axes, svg = _save(paint, title, size, "svg")
    text = svg.decode()
    text = text[text.index("<svg") :]  # removes the document type, which contains a URL
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font(?:-family)?: (\d+px )?'DejaVu Sans'[^;\"]*", r"font-size: \1", text)
    text = text.replace("font-size: ;", "").replace("<svg ", f"<svg {_FONT} ", 1)
    names = "; ".join(axes.get_legend_handles_labels()[1])  # a name may contain commas
    labels = [label for label in (axes.get_ylabel(), axes.get_xlabel()) if label]
    description = f"{title}: {' against '.join(labels)}"
    return Chart(
        title,
        f"{description} ({names})" if names else description,
        text,
        lambda: _save(paint, title, size, "png")[1],
    )


def _save(
    paint: Callable[[Axes], None], title: str, size: tuple[float, float], kind: str
) -> tuple[Axes, bytes]:
    """Return the axes and the content of the file: a transparent SVG, or a white PNG for slides."""
    is_vector = kind == "svg"
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        paint(axes)
        file = io.BytesIO()
        options: dict[str, Any] = {"dpi": _PNG_DPI}
        if is_vector:
            no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            options = {"metadata": no_metadata, "transparent": True}
        else:
            axes.set_title(title)
        # Hide warnings about characters that the fonts of this machine do not have: the reader's
        # machine has other fonts.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from font")
            figure.savefig(file, format=kind, **options)
    return axes, file.getvalue()


def _marker(points: Sequence[Any] | np.ndarray) -> str:
    return "o" if len(points) <= _MAX_MARKERS else ""


def _finish(axes: Axes, x: str, y: str, log: bool, percent: bool) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    is_counted = x in ("epoch", "training step", "trial")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=is_counted))
    left, right = axes.get_xlim()
    if is_counted and right - left < 1:  # there is a single measurement
        axes.set_xticks([round((left + right) / 2)])
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        subdivisions = (1, 2, 5) if high < 1e3 * low else (1,)  # ticks within a power of ten
        axes.yaxis.set_major_locator(LogLocator(subs=subdivisions, numticks=9))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def _make_x_logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _finite(xs: Sequence[float], ys: Sequence[float], log: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    is_shown = np.isfinite(y) & ((y > 0) if log else True)
    return x[is_shown], y[is_shown]
