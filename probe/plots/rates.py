"""Firing rate of each layer at each timestep, as a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from probe.plots.colours import MAP
from probe.plots.style import colour_of_text, layer_label, network_title, set_rows
from probe.recording import Layer

MOST_WRITTEN = (16, 24)
"""Up to so many timesteps and layers, each rate is written in its cell."""


def draw_rates(axes: Axes, layers: Sequence[Layer]) -> Axes:
    """Draw Σ s(t) / (samples · neurons) over layers, top to bottom in execution order, and timesteps.

    Args:
        axes: to draw on.
        layers: of one recording; every preset will do.
    """
    recording = layers[0].recording
    rates = np.stack([layer.spikes_at / (recording.samples * layer.neurons) for layer in layers])
    low, high = min(0.0, float(rates.min())), max(float(rates.max()), 1e-9)
    edges = np.arange(recording.timesteps + 1) + 0.5
    mesh = axes.pcolormesh(edges, np.arange(len(layers) + 1) - 0.5, rates, cmap=MAP, vmin=low, vmax=high)
    # A map of thousands of vector cells is slow to show; the axes around it stay vectors.
    mesh.set_rasterized(rates.size > 4000)
    if recording.timesteps <= MOST_WRITTEN[0] and len(layers) <= MOST_WRITTEN[1]:
        for (row, column), rate in np.ndenumerate(rates):
            colour = colour_of_text((rate - low) / (high - low))
            axes.text(column + 1, row, f"{rate:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.figure.colorbar(mesh, ax=axes, label="firing rate (spikes per timestep)", aspect=30)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, steps=[1, 2, 4, 5, 8, 10], integer=True))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("timestep t")
    set_rows(axes, [layer_label(layer) for layer in layers])
    axes.spines[:].set_visible(False)
    axes.set_title(network_title(recording, "firing rate"))
    return axes
