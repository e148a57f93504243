"""What the error of each layer is made of: its six pieces at one t, or over t for a single layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from probe.attribution import PIECES, TERMS
from probe.plots.choice import Counted, counted
from probe.plots.colours import TERM_COLOURS, TERM_LABELS
from probe.plots.style import layer_label, layer_title, legend_beside, network_title, set_rows, set_timesteps
from probe.recording import Layer


def draw_attribution(axes: Axes, layers: Sequence[Layer], timestep: int | None = None) -> Axes:
    """Draw the parts of the mean square error, a bar for each layer; for a single layer without a t, over the grid.

    Args:
        axes: to draw on.
        layers: of one recording.
        timestep: t of the grid; None stands for T, or for every t where there is one layer.
    """
    if len(layers) == 1 and timestep is None:
        return _draw_over_time(axes, layers[0])
    found = counted(layers, timestep, even=True)
    parts = np.stack([contributions(one) for one in found], axis=1)
    # A negative part works against the error; it goes to the left of 0, so that neither hides the other.
    right, left = np.zeros(len(found)), np.zeros(len(found))
    rows = range(len(found))
    for piece, part in zip(PIECES, parts, strict=True):
        start = np.where(part < 0, left, right)
        axes.barh(rows, part, 0.8, left=start, color=TERM_COLOURS[piece], label=_label(piece, part))
        right, left = right + np.maximum(part, 0), left + np.minimum(part, 0)
    axes.plot(parts.sum(0), rows, "|", color=TERM_COLOURS["total"], ms=9, mew=2, ls="none", label=TERM_LABELS["total"])
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel("mean square of φ − a, split into its pieces (θ²)")
    set_rows(axes, [layer_label(layer) for layer in layers])
    axes.grid(axis="x")
    legend_beside(axes)
    axes.set_title(network_title(layers[0].recording, "attribution of φ − a", timestep=timestep))
    return axes


def contributions(one: Counted) -> npt.NDArray[np.float64]:
    """mean(piece · total) of the six pieces, (piece,), in θ²: with their sign they add up to mean(total²)."""
    products = [one.coding.product(one.statistics, term, 0) for term in range(1, len(TERMS))]
    return np.array(products, np.float64) / one.total


def _draw_over_time(axes: Axes, layer: Layer) -> Axes:
    """The mean square of each piece and of the total, lines over the t of the grid."""
    found = [counted([layer], t, even=True)[0] for t in layer.statistics.statistics] or counted(
        [layer], None, even=True
    )
    steps = [one.timestep for one in found]
    terms = range(len(TERMS))
    squares = np.array([[one.coding.product(one.statistics, i, i) / one.total for i in terms] for one in found])
    # The error falls by orders of magnitude over t, and is exactly 0 at some: logarithmic, but with a place for 0.
    smallest = squares[squares > 0].min(initial=1.0)
    axes.set_yscale("symlog", linthresh=smallest, linscale=0.4)
    for place, term in enumerate(TERMS):
        # A piece that cannot occur is named, but its line would only hide others.
        drawn = slice(None) if squares[:, place].any() or term == "total" else slice(0)
        axes.plot(
            steps[drawn], squares[drawn, place], "o-", ms=4, lw=2.4 if term == "total" else 1.5,
            color=TERM_COLOURS[term], label=_label(term, squares[:, place]), zorder=2 if term == "total" else 3,
            clip_on=False, in_layout=False,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mean square (θ²)")
    set_timesteps(axes, steps[0], steps[-1])
    axes.grid(axis="y")
    legend_beside(axes)
    axes.set_title(layer_title(layer))
    return axes


def _label(term: str, values: npt.NDArray[np.float64]) -> str:
    """A term in a legend; where it is 0 throughout, nothing of it can be seen in the plot."""
    return TERM_LABELS[term] + ("" if values.any() else ": 0")
