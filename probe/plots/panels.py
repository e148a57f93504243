"""Makes the figure of a plot: a panel for each layer, sample and neuron that was chosen, as large as it needs to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from probe.errors import ProbeError
from probe.plots.choice import LayerChoice, NeuronChoice, choose_layers, choose_sample, each_neuron
from probe.plots.style import STYLE
from probe.recording import Recording

if TYPE_CHECKING:
    from probe.plots import Plot

MOST_PANELS = 64
"""More in one figure, and nobody can read or print it."""
SHRINK = 0.72
"""How much smaller than alone a panel with a single axes is among others."""


def compose(
    kind: str,
    plot: Plot,
    recording: Recording,
    layers: LayerChoice,
    timestep: int | None,
    samples: int | Sequence[int] | None,
    neurons: NeuronChoice,
    size: tuple[float, float] | None,
) -> Figure:
    """Make the figure; the arguments are those of `probe.plots.draw`."""
    _refuse_unused(kind, plot, {"layers": layers, "timestep": timestep, "samples": samples, "neurons": neurons})
    if size is not None and not (len(size) == 2 and all(0 < side <= 200 for side in size)):
        raise ProbeError(f"size {size}", expected="a width and a height in inches, above 0 and at most 200")
    if plot.over == "network":
        panels: list[tuple[Any, dict[str, Any]]] = [(recording, {})]
    else:
        chosen = choose_layers(recording, layers)
        if plot.over == "layers":
            panels = [(chosen, {} if timestep is None else {"timestep": timestep})]
        else:
            each = chosen[:1] if plot.on_figure and layers is None else chosen
            panels = list(product(each, _keywords(plot, recording, timestep, samples, neurons)))
    if len(panels) > MOST_PANELS:
        raise ProbeError(
            f"{kind} would have {len(panels)} panels",
            expected=f"at most {MOST_PANELS}",
            next_step="choose fewer layers, samples or neurons",
        )
    rows, columns = _arrange(len(panels), plot.size)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size or _natural_size(plot, panels, rows, columns), layout="constrained")
        function = plot.load()
        for i, (target, (what, keywords)) in enumerate(
            zip(_targets(figure, plot, rows, columns), panels, strict=False)
        ):
            function(target, what, **keywords)
        # Some ticks are made only when they are first needed: let that be while the style holds.
        figure.draw_without_rendering()
    return figure
