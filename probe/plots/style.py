"""What all plots share beside their colours: words, titles and ticks that never overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter
from matplotlib.transforms import ScaledTranslation

from probe.plots.colours import MAP

if TYPE_CHECKING:
    from matplotlib.legend import Legend

    from probe.recording import Layer, Recording

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 10,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.7,
    "savefig.dpi": 150,
    "svg.hashsalt": "probe",
    "pdf.fonttype": 42,
    "text.usetex": False,
}
"""matplotlib's settings for our figures, see `applied`."""

INCOMPLETE = "(INCOMPLETE)"
"""In the title of what was drawn from an incomplete recording."""
LINE_HEIGHT = 0.155
"""Inches that a line of tick labels needs."""


def applied() -> AbstractContextManager[None]:
    """The style, for as long as a figure is drawn or saved, never for the whole process."""
    settings: Any = STYLE
    return matplotlib.rc_context(settings)


# -------------------------------------------------------------------------------------------------------- words


def clean(text: str, limit: int = 40) -> str:
    """Text from a file as matplotlib can show it: no mathtext, no control characters, not too long.

    A character that the font lacks becomes its escape, and a long text loses its middle, so that both the start and
    the end of a dotted name can be read.
    """
    known = _characters(findfont(FontProperties()))
    shown = "".join(c if c.isprintable() and ord(c) in known else ascii(c)[1:-1] for c in text)
    if len(shown) > limit:
        shown = shown[: limit // 2 - 1] + "…" + shown[len(shown) - (limit - limit // 2) :]
    return shown.replace("$", r"\$")


@cache
def _characters(font: str) -> frozenset[int]:
    return frozenset(get_font(font).get_charmap())


def layer_label(layer: Layer) -> str:
    """A layer in a list of layers: its index and name."""
    return f"{layer.index}  {clean(layer.name, 30)}"


def facts(recording: Recording, timestep: int | None = None, sample: int | None = None) -> str:
    """The second line of a title: which t, which samples, and whether the recording is whole."""
    total = recording.timesteps
    when = f"t = {timestep} of T = {total}" if timestep not in (None, total) else f"T = {total}"
    who = f"{recording.samples} samples" if sample is None else f"sample {sample} of {recording.samples}"
    return f"{when}, {who}" + ("" if recording.complete else f" {INCOMPLETE}")


def layer_title(layer: Layer, *, timestep: int | None = None, sample: int | None = None) -> str:
    """The title of a panel that shows one layer: its index and name; below, the `facts`."""
    return f"layer {layer_label(layer)}\n{facts(layer.recording, timestep, sample)}"


def network_title(recording: Recording, shown: str, *, timestep: int | None = None) -> str:
    """The title of a panel that shows the network: what it shows, and of which model; below, the `facts`."""
    model = clean(str(recording.attributes.get("model", "")), 34)
    return f"{shown}, {model}\n{facts(recording, timestep)}"


# --------------------------------------------------------------------------------------------------------- axes


def set_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Rows from top to bottom on the y axis, row i at y = i, each with its label or, where they are too close, some."""
    axes.set_ylim(len(labels) - 0.5, -0.5)
    # Layout comes later and may take a little of the height.
    height = 0.85 * axes.bbox.height / axes.figure.dpi
    step = max(1, math.ceil(len(labels) * LINE_HEIGHT / height))
    axes.set_yticks(range(0, len(labels), step), list(labels)[::step])
    axes.tick_params(axis="y", length=0 if step == 1 else 3)


def set_timesteps(axes: Axes, first: int, last: int, label: str = "timestep t") -> None:
    """An x axis of timesteps from `first` to `last`; logarithmic above 16, where most of what happens is at small t."""
    axes.set_xlabel(label)
    if last <= 16:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=last - first + 1, steps=[1, 2, 5, 10], integer=True))
    else:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator([1 << i for i in range(last.bit_length())]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())


def legend_beside(axes: Axes, **keywords: Any) -> Legend:
    """A legend to the right of the axes, where it covers nothing whatever their height."""
    return axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, **keywords)


def legend_below(axes: Axes, **keywords: Any) -> Legend:
    """A legend in one row below the label of the x axis."""
    below = axes.transAxes + ScaledTranslation(0, -0.42, axes.figure.dpi_scale_trans)
    return axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below, borderaxespad=0.0, ncols=4,
        handlelength=1.3, columnspacing=1.2, **keywords,
    )  # fmt: skip


def colour_of_text(value: float) -> str:
    """Black or white, whichever can be read on the colour of `MAP` at a value from 0 to 1."""
    red, green, blue, _ = matplotlib.colormaps[MAP](value)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
