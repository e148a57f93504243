"""φ against a: how often each pair of SNN and ANN output occurs, with the line and the stairs it should lie on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from probe.attribution import why_not_even
from probe.plots.choice import counted
from probe.plots.colours import MAP, RED
from probe.plots.style import layer_title, legend_below
from probe.recording import Layer


def draw_phi(axes: Axes, layer: Layer, timestep: int | None = None) -> Axes:
    """Draw the joint histogram of a (k·θ/L, or of a ReLU to the nearest spike) and φ(t) = n·θ/t, in units of θ.

    The stairs are n = clip(⌊t·a/θ + v(0)/θ⌋, 0, t), the count that an input equal to a, spread evenly, would give;
    where they leave the identity line is the error that the grid of t allows at best. Neurons that do not promise it
    have none.

    Args:
        axes: to draw on.
        layer: with statistics.
        timestep: t of the grid; T where it is None.
    """
    one = counted([layer], timestep)[0]
    t = one.timestep
    of_a, phi, number = one.coding.points(one.statistics)
    columns, count = np.rint(of_a * (steps := one.coding.levels or t)).astype(int), np.rint(phi * t).astype(int)
    # What is beyond the last offset that is told apart may come out below 0.
    columns = columns.clip(0)
    low, high = min(0, int(count.min())), max(t, int(count.max()))
    shown = np.zeros((high - low + 1, max(steps, int(columns.max())) + 1), np.int64)
    np.add.at(shown, (count - low, columns), number)
    mesh = axes.pcolormesh(
        (np.arange(shown.shape[1] + 1) - 0.5) / steps,
        (np.arange(low, high + 2) - 0.5) / t,
        np.ma.masked_equal(shown, 0),
        cmap=MAP,
        norm=LogNorm(1, max(10, int(shown.max()))),
    )
    axes.figure.colorbar(mesh, ax=axes, label="neurons (samples × neurons)")
    axes.plot([0, 1], [0, 1], "--", color="black", lw=1.0, label="φ = a")
    if why_not_even(layer.traits, layer.initial_fraction) is None:
        a, count = stairs(t, layer.initial_fraction)
        # A ReLU goes on beyond θ, where the neuron fires at every timestep.
        end = max(1.0, (shown.shape[1] - 0.5) / steps) if layer.levels is None else 1.0
        axes.step(
            np.append(a, end), np.append(count, count[-1]) / t, where="post", color=RED, lw=1.3,
            label="exact conversion",
        )  # fmt: skip
    axes.set_facecolor("#F2F2F2")
    axes.set_xlabel("activation a / θ" + ("" if layer.levels else ", to the nearest spike"))
    axes.set_ylabel(f"SNN output φ({'T' if t == layer.recording.timesteps else 't'}) / θ")
    legend_below(axes)
    axes.set_title(layer_title(layer, timestep=timestep))
    return axes


def stairs(timestep: int, initial: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Where n = clip(⌊t·a + v(0)⌋, 0, t) steps up as a goes from 0 to 1, and n from there on; all in units of θ.

    Args:
        timestep: t.
        initial: v(0).
    """
    start = int(np.clip(np.floor(initial), 0, timestep))
    count = np.arange(start, timestep + 1, dtype=np.float64)
    a = np.maximum((count - initial) / timestep, 0.0)
    a[0] = 0.0
    reached = a < 1
    return np.append(a[reached], 1.0), np.append(count[reached], count[reached][-1])
