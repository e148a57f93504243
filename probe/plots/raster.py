"""Spike raster: when each of some neurons fired, for one sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from probe.plots.choice import Neuron, choose_neuron, choose_sample, most_active
from probe.plots.colours import BLUE, RED
from probe.plots.style import layer_title, legend_below, set_rows
from probe.recording import Layer


def draw_raster(axes: Axes, layer: Layer, sample: int = 0, neurons: Sequence[Neuron] | None = None) -> Axes:
    """Draw a tick for each spike, a row for each neuron; negative spikes are shorter and in another colour.

    Args:
        axes: to draw on.
        layer: recorded with `spikes` or `full`.
        sample: its index in the recording.
        neurons: their places in the layer, top to bottom; by default those that fired most over all samples.
    """
    sample = choose_sample(layer.recording, sample)
    places = most_active(layer) if neurons is None else [choose_neuron(layer, neuron) for neuron in neurons]
    timesteps = layer.recording.timesteps
    flat = [int(np.ravel_multi_index(place, layer.shape)) for place in places]
    trains = layer.read("snn_spikes", sample).reshape(timesteps, -1)[:, flat].T
    # As bold as the time between two spikes lets them be, and a quarter of an inch high at most.
    across, down = axes.bbox.width / axes.figure.dpi / timesteps, axes.bbox.height / axes.figure.dpi / len(places)
    width, height = float(np.clip(0.3 * 72 * across, 0.5, 4.0)), min(0.8, 0.25 / down)
    for sign, length, colour in ((1, height, BLUE), (-1, 0.6 * height, RED)):
        times = [np.flatnonzero(train == sign) + 1 for train in trains]
        axes.eventplot(times, lineoffsets=range(len(times)), linelengths=length, linewidths=width, colors=colour)
    if (trains < 0).any():
        keys = [Line2D([], [], color=c, lw=2, label=label) for c, label in ((BLUE, "spike"), (RED, "negative spike"))]
        legend_below(axes, handles=keys)
    axes.set_xlim(0.5, timesteps + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    set_rows(axes, [",".join(map(str, place)) for place in places])
    axes.set_xlabel("timestep t")
    which = "neuron" if neurons is not None or len(places) == layer.neurons else f"{len(places)} most active neurons"
    axes.set_ylabel(f"{which} (channel, row, column)" if len(layer.shape) == 3 else which)
    axes.set_title(layer_title(layer, sample=sample))
    return axes
