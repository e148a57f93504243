"""One neuron over time: its input, its potential against the threshold, its spikes and what they add up to."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from probe import analysis
from probe.analysis import Trace
from probe.plots.choice import Neuron, choose_neuron, choose_sample, largest_neuron, largest_sample
from probe.plots.colours import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED
from probe.plots.style import INCOMPLETE, clean, legend_beside
from probe.recording import Layer

MOST_MARKED = 64
"""Up to so many timesteps, each value is marked by a dot."""
OnFigure = TypeVar("OnFigure", Figure, SubFigure)


def draw_neuron(figure: OnFigure, layer: Layer, sample: int | None = None, neuron: Neuron | None = None) -> OnFigure:
    """Draw the trace of a neuron of a recording.

    Args:
        figure: to draw on.
        layer: recorded with `full`.
        sample: its index in the recording; by default the one with the layer's largest error.
        neuron: its place in the layer; by default the one with the sample's largest error.
    """
    where = largest_sample(layer) if sample is None else choose_sample(layer.recording, sample)
    place = largest_neuron(layer, where) if neuron is None else choose_neuron(layer, neuron)
    return draw_steps(
        figure, analysis.trace(layer.recording, layer.index, where, place), complete=layer.recording.complete
    )


def draw_steps(figure: OnFigure, trace: Trace, *, complete: bool = True) -> OnFigure:
    """Draw x(t), v(t) between 0 and θ with the spikes, and φ(t) against a, one below the other.

    Args:
        figure: to draw on.
        trace: from `probe.trace`.
        complete: whether the recording is.
    """
    timesteps = len(trace.x)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1.0, 1.8, 1.2))
    dots = {"marker": "o", "ms": 3.5} if timesteps <= MOST_MARKED else {}
    _draw_input(top, trace, dots)
    _draw_potential(middle, trace, dots)
    _draw_output(bottom, trace, dots)
    for axes in (top, middle, bottom):
        axes.grid(axis="y")
        legend_beside(axes)
    bottom.set_xlabel("timestep t")
    bottom.xaxis.set_major_locator(MaxNLocator(nbins=16, steps=[1, 2, 4, 5, 8, 10], integer=True))
    bottom.set_xlim(-0.2 - 0.02 * timesteps, 0.2 + 1.02 * timesteps)
    figure.align_ylabels([top, middle, bottom])
    neuron = ",".join(map(str, trace.neuron))
    figure.suptitle(
        f"layer {trace.layer_index}  {clean(trace.layer_name, 30)}, neuron {neuron}\n"
        f"T = {timesteps}, sample {trace.sample}, θ = {trace.threshold:.4g}, v(0) = {trace.initial_potential:.4g}"
        + ("" if complete else f" {INCOMPLETE}"),
        x=0.01,
        ha="left",
    )
    return figure


def _draw_input(axes: Axes, trace: Trace, dots: dict[str, Any]) -> None:
    steps = np.arange(1, len(trace.x) + 1)
    axes.plot(steps, trace.x, color=GREEN, lw=1.4, label="x(t)", **dots)
    axes.axhline(float(trace.x.mean()), color=GREEN, lw=1.0, ls=":", label="mean of x(t)")
    if trace.ann_input is not None:
        axes.axhline(trace.ann_input, color=ORANGE, lw=1.4, ls="--", label="ANN's input")
    axes.set_ylabel("input x(t)\n(unit of a)")


def _draw_potential(axes: Axes, trace: Trace, dots: dict[str, Any]) -> None:
    """A line that is charged to v(t−1) + x(t) and then falls to v(t): at a spike by θ."""
    steps = np.arange(1, len(trace.x) + 1)
    before = np.concatenate([[trace.initial_potential], trace.potential[:-1]])
    charged = before + trace.x
    path = np.concatenate([[trace.initial_potential], np.stack([charged, trace.potential], 1).ravel()])
    axes.plot(np.concatenate([[0], np.repeat(steps, 2)]), path, color=GREY, lw=1.0, label="charged, then reset")
    axes.plot(
        np.concatenate([[0], steps]), np.concatenate([[trace.initial_potential], trace.potential]),
        color=BLACK, ls="none", **{"marker": "o", "ms": 2.0, **dots}, label="v(t)", zorder=3,
    )  # fmt: skip
    for sign, marker, colour, label in ((1, "^", BLUE, "spike"), (-1, "v", RED, "negative spike")):
        fired = trace.spike == sign
        if fired.any():
            axes.plot(steps[fired], charged[fired], marker, color=colour, ms=6, ls="none", label=label, zorder=4)
    axes.axhline(trace.threshold, color=PURPLE, lw=1.2, ls="--", label="threshold θ")
    axes.axhline(0.0, color=BLACK, lw=0.8)
    axes.set_ylabel("membrane potential v(t)\n(unit of a)")


def _draw_output(axes: Axes, trace: Trace, dots: dict[str, Any]) -> None:
    steps = np.arange(1, len(trace.x) + 1)
    axes.plot(steps, trace.snn_output, color=BLUE, lw=1.4, label=f"φ(t), {trace.snn_output[-1]:.4g} at T", **dots)
    if trace.ann_output is not None:
        axes.axhline(trace.ann_output, color=ORANGE, lw=1.4, ls="--", label=f"activation a, {trace.ann_output:.4g}")
    axes.axhline(0.0, color=BLACK, lw=0.8)
    axes.set_ylabel("SNN output φ(t)\n(unit of a)")
