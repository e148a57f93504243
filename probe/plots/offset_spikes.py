"""Offset spikes: by how many spikes the SNN's count differs from what the ANN's output asks for."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from probe.plots.choice import counted
from probe.plots.colours import EQUAL, OVER, UNDER
from probe.plots.style import layer_title
from probe.recording import Layer

MOST_WRITTEN = 9
"""Up to so many bars, the share is written above each: the rare ones are too low to read."""
UPRIGHT = 7
"""In more places for bars than this, shares beside each other would overlap unless they are turned."""


def draw_offsets(axes: Axes, layer: Layer, timestep: int | None = None) -> Axes:
    """Draw the histogram of ψ = n − t·a/θ by its key: sign(ψ)·⌈|ψ|⌉ for QCFS, the nearest whole number for ReLU.

    Args:
        axes: to draw on.
        layer: with statistics.
        timestep: t of the grid; T where it is None.
    """
    one = counted([layer], timestep)[0]
    offsets = one.coding.offsets(one.statistics)
    keys, share = np.array(list(offsets)), np.array(list(offsets.values())) / one.total
    colours = [EQUAL if key == 0 else OVER if key > 0 else UNDER for key in keys]
    bars = axes.bar(keys, share, 0.85, color=colours)
    widest = max(2, int(np.abs(keys).max()))
    turned = 2 * widest + 1 > UPRIGHT
    if len(keys) <= MOST_WRITTEN:
        axes.bar_label(bars, [written(value) for value in share], padding=2, fontsize=7.5, rotation=90 * turned)
    axes.set_xlim(-widest - 0.6, widest + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=11, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(y=0.2 if turned else 0.1)
    symbol = "T" if one.timestep == layer.recording.timesteps else "t"
    rounding = "rounded away from 0" if layer.levels else "to the nearest"
    axes.set_xlabel(f"offset spikes n − {symbol}·a/θ, {rounding}")
    axes.set_ylabel("share of neurons")
    axes.set_title(layer_title(layer, timestep=timestep))
    return axes


def written(share: float) -> str:
    """A share in percent, in a few characters however rare."""
    percent = 100 * share
    if percent < 0.01:
        return "<0.01%"
    return f"{percent:.3g}%" if percent >= 1 else f"{percent:.2g}%"
