"""The residual potential: what is left on the membranes, below 0, inside [0, θ) or above."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from probe.attribution import RESIDUAL_BINS_PER_THRESHOLD, RESIDUAL_EDGES
from probe.plots.choice import counted
from probe.plots.colours import RESIDUAL_COLOURS
from probe.plots.style import layer_title, legend_below
from probe.recording import Layer


def draw_residual(axes: Axes, layer: Layer, timestep: int | None = None) -> Axes:
    """Draw the histogram of v(t)/θ in bins of θ/8; what lies beyond ±4 θ is in the hatched outermost bars.

    A neuron below 0 has fired too often for its input, or has had no input to fire at; one at or above θ owes spikes.
    Neurons that SRP silences are not counted.

    Args:
        axes: to draw on.
        layer: with statistics.
        timestep: t of the grid; T where it is None.
    """
    one = counted([layer], timestep, even=True)[0]
    histogram = one.statistics.residual
    share = histogram / max(1, histogram.sum())
    width = 1 / RESIDUAL_BINS_PER_THRESHOLD
    left = np.concatenate([[RESIDUAL_EDGES[0] - width], RESIDUAL_EDGES])
    third = np.where(left < 0, 0, np.where(left < 1, 1, 2))
    bars = axes.bar(left, share, width, align="edge", color=np.array(RESIDUAL_COLOURS)[third], ec="white", lw=0.4)
    for outermost in (bars[0], bars[-1]):
        outermost.set_hatch("////")
    keys = [
        Patch(color=RESIDUAL_COLOURS[i], label=f"{label}: {100 * share[third == i].sum():.3g}%")
        for i, label in enumerate(("v < 0", "0 ≤ v < θ", "v ≥ θ"))
    ]
    for edge in (0.0, 1.0):
        axes.axvline(edge, color="black", lw=1.0, ls="--")
    occupied = np.flatnonzero(histogram)
    low, high = (left[occupied[0]], left[occupied[-1]] + width) if len(occupied) else (0.0, 1.0)
    axes.set_xlim(min(low, -0.5) - width, max(high, 1.5) + width)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    symbol = "T" if one.timestep == layer.recording.timesteps else "t"
    beyond = " (hatched: beyond ±4)" if histogram[[0, -1]].any() else ""
    axes.set_xlabel(f"residual potential v({symbol}) / θ{beyond}")
    axes.set_ylabel(f"share of neurons, by bins of θ/{RESIDUAL_BINS_PER_THRESHOLD}")
    legend_below(axes, handles=keys)
    axes.set_title(layer_title(layer, timestep=timestep))
    return axes
