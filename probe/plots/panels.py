"""Makes the figure of a plot: a panel for each layer, sample and neuron that was chosen, as large as it needs to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from probe.errors import ProbeError
from probe.plots import style
from probe.plots.choice import LayerChoice, NeuronChoice, choose_layers, choose_sample, counted
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
        if layers is None and "timestep" in plot.takes:
            # Those without an ANN partner have no error to draw.
            chosen = [layer for layer in chosen if layer.paired] or chosen
        if plot.over == "layers":
            panels = [(chosen, {} if timestep is None else {"timestep": timestep})]
        else:
            each = chosen[:1] if plot.on_figure and layers is None else chosen
            if "timestep" in plot.takes:
                # Each panel would refuse its own layer; refuse them all at once.
                counted(each, timestep)
            panels = list(product(each, _keywords(plot, recording, timestep, samples, neurons)))
    if len(panels) > MOST_PANELS:
        raise ProbeError(
            f"{kind} would have {len(panels)} panels",
            expected=f"at most {MOST_PANELS}",
            next_step="choose fewer layers, samples or neurons",
        )
    rows, columns = _arrange(len(panels), plot.size)
    with style.applied():
        figure = Figure(figsize=size or _natural_size(plot, panels, rows, columns), layout="constrained")
        function = plot.load()
        for target, (what, keywords) in zip(_targets(figure, plot, rows, columns, len(panels)), panels, strict=False):
            function(target, what, **keywords)
        # Some ticks are made only when they are first needed: let that be while the style holds.
        figure.draw_without_rendering()
    return figure


def _refuse_unused(kind: str, plot: Plot, given: dict[str, Any]) -> None:
    """Refuse an argument that the kind would silently ignore."""
    takes = {"timestep": "timestep", "sample": "samples", "neuron": "neurons", "neurons": "neurons"}
    accepted = ["layers"] * (plot.over != "network") + [takes[name] for name in plot.takes]
    for name, value in given.items():
        if value is not None and name not in accepted:
            raise ProbeError(
                f"a plot of {kind} takes no {name}",
                expected=" and ".join(accepted) or "no choice: it shows the whole network",
                next_step=f"leave --{name.removesuffix('s')} out",
            )


def _keywords(
    plot: Plot, recording: Recording, timestep: int | None, samples: int | Sequence[int] | None, neurons: NeuronChoice
) -> list[dict[str, Any]]:
    """What the panels of one layer are given, beside the layer; what was not chosen is left to the function."""
    for name, choice in (("sample", samples), ("neuron", neurons)):
        if isinstance(choice, Sequence) and not choice:
            raise ProbeError(f"no {name} was chosen", expected="at least one", next_step="leave it out for the default")
    listed = [samples] if isinstance(samples, int | np.integer) else samples or ()
    each: dict[str, Sequence[Any]] = {
        "timestep": [] if timestep is None else [timestep],
        "sample": [choose_sample(recording, sample) for sample in listed],
        "neuron": neurons if isinstance(neurons, list) else [] if neurons is None else [neurons],
        "neurons": [] if neurons is None else [neurons if isinstance(neurons, list) else [neurons]],
    }
    chosen = {name: each[name] for name in plot.takes if each[name]}
    return [dict(zip(chosen, values, strict=True)) for values in product(*chosen.values())]


def _arrange(panels: int, size: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns that make the figure about as wide as high."""
    columns = max(1, min(panels, math.ceil(math.sqrt(panels * size[1] / size[0]))))
    return math.ceil(panels / columns), columns


def _natural_size(plot: Plot, panels: list[tuple[Any, dict[str, Any]]], rows: int, columns: int) -> tuple[float, float]:
    """Width and height of the figure, in inches."""
    width, height = plot.size
    if plot.over == "layers":
        return width, max(3.4, height + plot.per_layer * len(panels[0][0]))
    scale = SHRINK if len(panels) > 1 and not plot.on_figure else 1.0
    return columns * width * scale, rows * height * scale


def _targets(figure: Figure, plot: Plot, rows: int, columns: int, panels: int) -> list[Any]:
    """What each panel is drawn on: the figure, a part of it, or an Axes."""
    if plot.on_figure:
        return [figure] if panels == 1 else list(figure.subfigures(rows, columns, squeeze=False).flat)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.remove()
    return axes
