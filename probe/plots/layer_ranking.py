"""Layers ranked by what they cost: accuracy or output error with each alone analog, evened, or alone spiking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from probe.plots.colours import BLACK, BLUE, GREEN, LIGHT, ORANGE, PURPLE
from probe.plots.style import clean, set_rows

MODES = {
    "all_but": ("all but it spike", BLUE, "o", 5.5, -0.2),
    "even": ("its unevenness removed", GREEN, "s", 4.5, 0.0),
    "only": ("only it spikes", PURPLE, "^", 4.5, 0.2),
}
"""Mode -> label, colour, marker, its size, and how far below its row it stands, for equal numbers are common."""


def draw_sensitivity(axes: Axes, result: Mapping[str, Any], of: Literal["accuracy", "error"] = "accuracy") -> Axes:
    """Draw what `probe.sensitivity` returns: a row for each layer, the costliest on top, and lines for ANN and SNN.

    The bar of `accuracy` is Wilson's 95% interval of the run in which the layer alone is analog.

    Args:
        axes: to draw on.
        result: from `probe.sensitivity`.
        of: which number.
    """
    layers = result["layers"]
    if of == "accuracy":
        axes.axvline(result["ann"]["accuracy"], color=ORANGE, lw=1.6, ls="--", label="ANN")
    if result["snn"][of] is not None:
        axes.axvline(result["snn"][of], color=BLACK, lw=1.2, label="SNN, all spike")
    # The first is drawn last: it is what the rows are ranked by.
    for mode, (label, colour, marker, size, below) in reversed(MODES.items()):
        found = [(row, layer[mode]) for row, layer in enumerate(layers) if layer[mode] and layer[mode][of] is not None]
        rows = np.array([row + below for row, _ in found])
        values = np.array([one[of] for _, one in found])
        if mode == "all_but" and of == "accuracy" and found:
            low, high = (np.array([one[key] for _, one in found]) for key in ("low", "high"))
            axes.hlines(rows, low, high, color=colour, lw=3.5, alpha=0.18, zorder=1)
        axes.plot(values, rows, marker, color=colour, ms=size, mec="white", mew=0.5, ls="none", label=label)
    set_rows(axes, [f"{layer['index']}  {clean(layer['name'], 30)}" for layer in layers])
    axes.hlines(range(len(layers)), 0, 1, transform=axes.get_yaxis_transform(), color=LIGHT, lw=0.5, zorder=0)
    if of == "accuracy":
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("accuracy (share of samples)")
    else:
        axes.set_xlim(left=0)
        axes.set_xlabel("output error (relative L2 to the ANN's logits)")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_title(
        f"{clean(result['model'])}: what each layer costs\nT = {result['timesteps']}, {result['samples']} samples of "
        f"{clean(result['data'])}"
    )
    return axes
