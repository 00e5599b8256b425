"""Figures as SVG, in one style: one colour per pre-training method everywhere, text that stays text."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

COLOURS = {
    "mae": "#0072B2",
    "distilled_mae": "#4B3F9E",
    "scratch": "#D55E00",
    "supervised": "#009E73",
    "feature_distillation": "#999933",
    "mocov3": "#CC79A7",
    "dino": "#56B4E9",
    "simmim": "#E69F00",
    "distilled_simmim": "#A3161B",
    "maskfeat": "#882255",
    "mae_hog": "#7A4B00",
}
"""Of the pre-training methods: Okabe and Ito's palette, a violet, two dark reds, a brown and an olive, which
colour-blind readers can tell apart."""
_OTHERS = ("#7F7F7F", "#117733", "#B2ABD2", "#5E4FA2", "#A6761D")
_INK = "#262626"
"""What matplotlib draws text and axes with; the page turns it into the colour of its own text, light or dark."""
_SHAPES = ("o", "s", "^", "D", "v", "P", "X")
_LONG_NAME = 32
"""Letters from which on two names have no room side by side."""
_COUNTED, _NAMED = 12, 30
"""Classes up to which a confusion matrix has room for counts and for names."""

Series = tuple[Sequence[float], Sequence[float]]


def assign_colours(named: Mapping[str, str]) -> dict[str, str]:
    """Return a colour for every name that stays with it throughout a page.

    Args:
        named: method of each name; the first name of a known method has the method's own colour, others are paler.
    """
    chosen: dict[str, str] = {}
    used: dict[str, int] = {}
    unknown = 0
    for name, method in named.items():
        if method not in COLOURS:
            chosen[name] = _OTHERS[unknown % len(_OTHERS)]
            unknown += 1
            continue
        chosen[name] = _paler(COLOURS[method], used.get(method, 0))
        used[method] = used.get(method, 0) + 1
    return chosen


def _paler(colour: str, times: int) -> str:
    share = 0.55 ** min(times, 3)
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - (255 - part) * share):02X}" for part in parts)


def curves(
    series: Mapping[str, Sequence[Series]],
    colours: Mapping[str, str],
    x_label: str,
    y_label: str,
    *,
    log_y: bool = False,
) -> str:
    """Draw lines and return SVG text.

    Args:
        series: for each name its runs, each as x and y values; they share colour and legend entry.
        colours: of the names.
        x_label: with its unit.
        y_label: with its unit.
        log_y: logarithmic y axis.
    """
    axes, figure = _axes()
    for name, runs in series.items():
        for number, (x, y) in enumerate(runs):
            marker = "o" if len(x) == 1 else None
            label = _shown(name) if number == 0 else None
            axes.plot(x, y, color=colours[name], linewidth=1.4, alpha=0.85, marker=marker, markersize=3.5, label=label)
    axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_y else "linear")
    _legend(axes, series)
    return _svg(figure)


def points(
    groups: Sequence[str],
    values: Mapping[str, Sequence[Sequence[float]]],
    colours: Mapping[str, str],
    x_label: str,
    y_label: str,
    places: Sequence[float] | None = None,
) -> str:
    """Draw every value of each method as a dot and their mean as a line, over ``groups``; return SVG text.

    Args:
        groups: names along the x axis.
        values: for each name, for each group, the single values; none where it has not been measured.
        colours: of the names.
        x_label: with its unit.
        y_label: with its unit.
        places: where the groups stand on the x axis, rising; by default side by side.
    """
    axes, figure = _axes()
    places = range(len(groups)) if places is None else places
    spacing = (places[-1] - places[0]) / max(1, len(places) - 1) or 1
    for offset, (name, per_group) in enumerate(values.items()):
        shift = (offset - (len(values) - 1) / 2) * 0.07 * spacing
        colour = colours[name]
        for place, single in zip(places, per_group, strict=True):
            axes.plot([place + shift] * len(single), single, "o", color=colour, markersize=3.5, alpha=0.6)
        means = [
            (place + shift, sum(single) / len(single))
            for place, single in zip(places, per_group, strict=True)
            if single
        ]
        x, y = [place for place, _ in means], [mean for _, mean in means]
        axes.plot(x, y, "-" if len(x) > 1 else "_", color=colour, linewidth=1.6, markersize=9, label=_shown(name))
    axes.set_xticks(places, groups)
    axes.set(xlabel=x_label, ylabel=y_label)
    _legend(axes, values)
    return _svg(figure)


def against(
    values: Mapping[str, tuple[float, float, float | None]], colours: Mapping[str, str], x_label: str, y_label: str
) -> str:
    """Draw one point for each name over a logarithmic x axis and return SVG text.

    Args:
        values: x (above 0), y, and half of the interval of y, or None, for each name.
        colours: of the names; shapes tell apart those that are alike.
        x_label: with its unit.
        y_label: with its unit.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes, figure = _axes()
    for place, (name, (x, y, half)) in enumerate(values.items()):
        bar = None if half is None else [[half], [half]]
        shape = {"fmt": _SHAPES[place % len(_SHAPES)], "markersize": 6, "elinewidth": 1.2, "capsize": 3}
        axes.errorbar([x], [y], bar, color=colours[name], label=_shown(name), **shape)
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log")
    axes.margins(x=0.12, y=0.1)
    low, high = axes.get_xlim()
    steps = (1.0, 2.0, 5.0) if high < 60 * low else (1.0, 3.0) if high < 600 * low else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.set_figheight(3.4 + 0.18 * max(0, _legend(axes, values) - 2))
    return _svg(figure)


def heatmap(values: Sequence[Sequence[float | None]], x_label: str, y_label: str, what: str) -> str:
    """Draw numbers between 0 and 1 as colours and return SVG text; a cell without a number stays empty.

    Args:
        values: rows, the first at the bottom; both axes count from 1.
        x_label: of the columns.
        y_label: of the rows.
        what: the numbers' name.
    """
    axes, figure = _axes()
    rows, columns = len(values), len(values[0])
    cells = [[float("nan") if value is None else value for value in row] for row in values]
    # Cells are drawn one by one: an embedded picture would not stay sharp.
    edges = [[place + 0.5 for place in range(count + 1)] for count in (columns, rows)]
    mesh = axes.pcolormesh(*edges, cells, vmin=0, vmax=1, cmap="magma", edgecolors="face", linewidth=0.1)
    axes.set(xlabel=x_label, ylabel=y_label, aspect="equal")
    axes.set_xticks(_ticks(columns))
    axes.set_yticks(_ticks(rows))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(mesh, ax=axes, label=what).outline.set_visible(False)
    return _svg(figure)


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Draw accuracy against confidence and return SVG text.

    Args:
        bins: each with its borders ``low`` and ``high``, mean ``confidence`` and ``accuracy``, all 0 to 1.
    """
    axes, figure = _axes()
    wide = [100 * (each["high"] - each["low"]) for each in bins]
    axes.bar(
        [100 * each["low"] for each in bins],
        [100 * each["accuracy"] for each in bins],
        wide,
        align="edge",
        color="#56B4E9",
        edgecolor=_INK,
        linewidth=0.6,
        label="accuracy of a bin",
    )
    said, right = ([100 * each[name] for each in bins] for name in ("confidence", "accuracy"))
    axes.plot(said, right, "o", color="#0072B2", markersize=4, label="mean confidence of the bin")
    axes.plot([0, 100], [0, 100], "--", color=_INK, linewidth=1, label="perfectly calibrated")
    axes.set(xlabel="confidence: probability of the best class, %", ylabel="accuracy, %", xlim=(0, 100), ylim=(0, 102))
    _legend(axes, ["accuracy of a bin", "mean confidence of the bin", "perfectly calibrated"])
    return _svg(figure)


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Draw a confusion matrix, coloured by the share of each row, and return SVG text.

    Args:
        counts: images; rows are true classes, the first at the top, columns predicted ones.
        names: of the classes; shown where they have room.
    """
    axes, figure = _axes()
    figure.set_size_inches(5.2, 4.6)
    size = len(names)
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    edges = [place - 0.5 for place in range(size + 1)]
    axes.pcolormesh(edges, edges, shares, vmin=0, vmax=1, cmap="Blues", edgecolors="face", linewidth=0.1)
    if size <= _COUNTED:
        for row, column in ((row, column) for row in range(size) for column in range(size) if counts[row][column]):
            colour = "#FFFFFF" if shares[row][column] > 0.5 else "#111111"  # the cells stay light in a dark page
            axes.text(column, row, str(counts[row][column]), ha="center", va="center", color=colour, fontsize=8)
    if size <= _NAMED:
        short = [_shown(name if len(name) <= 12 else f"{name[:11]}…") for name in names]
        axes.set_xticks(range(size), short, rotation=90 if max(map(len, short)) > 3 else 0, fontsize=8.5)
        axes.set_yticks(range(size), short, fontsize=8.5)
    axes.set(xlabel="predicted class", ylabel="true class", aspect="equal")
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return _svg(figure)


def _ticks(count: int) -> list[int]:
    step = -(-count // 12)
    return list(range(1, count + 1, step))


def _shown(name: str) -> str:
    """Return a name as matplotlib shall draw it: no formula between $, no entry hidden for its leading _."""
    return name.replace("$", r"\$").replace("_", "\u200b_", 1) if name.startswith("_") else name.replace("$", r"\$")


def _legend(axes: Any, names: Collection[str]) -> int:
    """Put the legend above the axes, where it hides no curve; long names stand below each other. Return its lines."""
    columns = 1 if len(names) == 1 or max(map(len, names)) > _LONG_NAME else 2
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2)
    return -(-len(names) // columns)


def _axes() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "mae_lite",
            "font.size": 9.5,
            "font.family": "sans-serif",
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "axes.edgecolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "grid.color": _INK,
        }
    )
    figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.15, linewidth=0.6)
    return axes, figure


def _svg(figure: Any) -> str:
    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
