"""φ against a: how often each pair of SNN and ANN output occurs, with the line and the stairs it should lie on."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from probe.plots.choice import counted
from probe.plots.style import MAP, RED, layer_title, legend_below
from probe.recording import Layer


def draw_phi(axes: Axes, layer: Layer, timestep: int | None = None) -> Axes:
    """Draw the joint histogram of a = k·θ/L and φ(t) = n·θ/t, in units of θ.

    The stairs are n = clip(⌊t·a/θ + v(0)/θ⌋, 0, t), the count that an input equal to a, spread evenly, would give;
    where they leave the identity line is the error that the grid of t allows at best.

    Args:
        axes: to draw on.
        layer: with statistics.
        timestep: t of the grid; T where it is None.
    """
    one = counted([layer], timestep)[0]
    levels, t, lowest = one.coding.levels, one.timestep, one.coding.lowest_count
    joint = one.statistics.joint
    low = min(0, int(np.flatnonzero(joint.any(0))[0]) + lowest)
    shown = joint[:, low - lowest : t - lowest + 1].T
    mesh = axes.pcolormesh(
        (np.arange(levels + 2) - 0.5) / levels,
        (np.arange(low, t + 2) - 0.5) / t,
        np.ma.masked_equal(shown, 0),
        cmap=MAP,
        norm=LogNorm(1, max(10, int(joint.max()))),
    )
    axes.figure.colorbar(mesh, ax=axes, label="neurons (samples × neurons)")
    a = np.linspace(0, 1, 64 * t + 1)
    stairs = np.clip(np.floor(a * t + layer.initial_fraction + 1e-9), low, t) / t
    axes.plot([0, 1], [0, 1], "--", color="black", lw=1.0, label="φ = a")
    axes.plot(a, stairs, color=RED, lw=1.3, label="exact conversion")
    axes.set_facecolor("#F2F2F2")
    axes.set_xlabel("activation a / θ")
    axes.set_ylabel(f"SNN output φ({'T' if t == layer.recording.timesteps else 't'}) / θ")
    legend_below(axes)
    axes.set_title(layer_title(layer, timestep=timestep))
    return axes
