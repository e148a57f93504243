"""The six cases of each layer at one t, as stacked bars of shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from probe.attribution import CASES
from probe.plots.choice import counted
from probe.plots.colours import CASE_COLOURS, CASE_LABELS
from probe.plots.style import layer_label, legend_beside, network_title, set_rows
from probe.recording import Layer

ORDER = (
    "zero_equal", "positive_equal", "positive_over", "zero_over", "positive_under", "zero_under",
)  # fmt: skip
"""From left to right: what agrees, what is over, what is under."""


def draw_cases(axes: Axes, layers: Sequence[Layer], timestep: int | None = None) -> Axes:
    """Draw, for each layer, how large a share of its neurons each case has: sign of a × comparison of φ(t) with a.

    Args:
        axes: to draw on.
        layers: of one recording.
        timestep: t of the grid; T where it is None.
    """
    found = counted(layers, timestep)
    left = np.zeros(len(found))
    for case in ORDER:
        place = CASES.index(case)
        share = np.array([one.statistics.cases.sum(2).flat[place] / one.total for one in found])
        axes.barh(range(len(found)), share, 0.8, left=left, color=CASE_COLOURS[case], label=CASE_LABELS[case])
        left += share
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of neurons (samples × neurons)")
    set_rows(axes, [layer_label(layer) for layer in layers])
    legend_beside(axes)
    axes.set_title(network_title(layers[0].recording, "cases of φ against a", timestep=timestep))
    return axes
