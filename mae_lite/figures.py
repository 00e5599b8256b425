"""Figures as SVG, in one style: one colour per pre-training method everywhere, text that stays text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = {
    "mae": "#0072B2",
    "scratch": "#D55E00",
    "scratch, longer": "#E69F00",
    "1-nearest neighbour": "#666666",
    "logistic regression": "#999999",
}
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

Series = tuple[Sequence[float], Sequence[float]]


def curves(series: Mapping[str, Sequence[Series]], x_label: str, y_label: str, *, log_y: bool = False) -> str:
    """Draw lines and return SVG text.

    Args:
        series: for each method its runs, each as x and y values; runs of a method share colour and legend entry.
        x_label: with its unit.
        y_label: with its unit.
        log_y: logarithmic y axis.
    """
    axes, figure = _axes()
    for name, runs in series.items():
        for number, (x, y) in enumerate(runs):
            colour = COLOURS.get(name, "#009E73")
            axes.plot(x, y, color=colour, linewidth=1.4, alpha=0.85, label=name if number == 0 else None)
    axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_y else "linear")
    axes.legend(frameon=False)
    return _svg(figure)


def points(groups: Sequence[str], values: Mapping[str, Sequence[Sequence[float]]], x_label: str, y_label: str) -> str:
    """Draw every value of each method as a dot and their mean as a line, over ``groups``; return SVG text.

    Args:
        groups: names along the x axis.
        values: for each method, for each group, the single values.
        x_label: with its unit.
        y_label: with its unit.
    """
    axes, figure = _axes()
    for offset, (name, per_group) in enumerate(values.items()):
        shift = (offset - (len(values) - 1) / 2) * 0.07
        colour = COLOURS.get(name, "#009E73")
        for place, single in enumerate(per_group):
            axes.plot([place + shift] * len(single), single, "o", color=colour, markersize=3.5, alpha=0.6)
        means = [sum(single) / len(single) for single in per_group]
        axes.plot([place + shift for place in range(len(groups))], means, "-", color=colour, linewidth=1.6, label=name)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.legend(frameon=False)
    return _svg(figure)


def _axes() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "mae_lite", "font.size": 9, "font.family": "sans-serif"}
    )
    figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return axes, figure


def _svg(figure: Any) -> str:
    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
