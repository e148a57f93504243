"""Accuracy of the SNN over t, and the ANN's as a line."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from probe import analysis
from probe.intervals import wilson
from probe.plots.colours import BLUE, ORANGE
from probe.plots.style import legend_below, network_title, set_timesteps
from probe.recording import Recording


def draw_accuracy(axes: Axes, recording: Recording) -> Axes:
    """Draw the share of samples that are classified right, by the SNN's logits summed up to t and by the ANN's.

    The band is Wilson's 95% interval: how well so many samples can tell the accuracy of the SNN.

    Args:
        axes: to draw on.
        recording: every preset will do.
    """
    result = analysis.accuracy(recording)
    steps = np.arange(1, recording.timesteps + 1)
    snn, ann = np.array([result["snn"][str(t)] for t in steps]), result["ann"]
    low, high = wilson(snn, recording.samples)
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.15, lw=0, label="95% interval")
    marker = "o" if recording.timesteps <= 32 else ""
    axes.plot(steps, snn, color=BLUE, lw=1.6, marker=marker, ms=4, label=f"SNN, {snn[-1]:.2%} at T")
    if ann is not None:
        axes.axhline(ann, color=ORANGE, lw=1.6, ls="--", label=f"ANN, {ann:.2%}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("accuracy (share of samples)")
    set_timesteps(axes, 1, recording.timesteps)
    axes.grid(axis="y")
    legend_below(axes)
    axes.set_title(network_title(recording, "accuracy"))
    return axes
