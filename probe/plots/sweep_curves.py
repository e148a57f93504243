"""Accuracy over T of several methods, and the ANN's as a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from probe.plots.colours import BLUE, GREEN, ORANGE, PURPLE, RED, SKY
from probe.plots.style import clean, legend_below

COLOURS = (BLUE, RED, GREEN, PURPLE, SKY)
MARKERS = "os^Dvx"


def draw_sweep(axes: Axes, result: Mapping[str, Any]) -> Axes:
    """Draw what `probe.sweep` returns: accuracy at the t of its table, with Wilson's 95% intervals.

    Args:
        axes: to draw on.
        result: from `probe.sweep`.
    """
    table = result["table"]
    for i, row in enumerate(result["methods"]):
        found = [row["accuracy"][str(t)] for t in table]
        values, low, high = (np.array([one[key] for one in found]) for key in ("accuracy", "low", "high"))
        colour = COLOURS[i % len(COLOURS)]
        axes.fill_between(table, low, high, color=colour, alpha=0.08, lw=0)
        axes.plot(table, values, color=colour, lw=1.6, marker=MARKERS[i % len(MARKERS)], ms=4.5, label=row["method"])
    axes.axhline(result["ann"]["accuracy"], color=ORANGE, lw=1.6, ls="--", label="ANN")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(table))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("timesteps T")
    axes.set_ylabel("accuracy (share of samples)")
    axes.grid(axis="y")
    legend_below(axes)
    axes.set_title(f"{clean(result['model'])}: methods over T\n{result['samples']} samples of {clean(result['data'])}")
    return axes
