"""What all plots share: colours that colour-blind readers can tell apart, words, titles and ticks that never overlap.

Categories have the colours of Okabe and Ito (2008) and greys, one colour for each case and each piece everywhere;
maps are `cividis`, differences `RdBu_r`, red where the SNN is over the ANN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from probe.attribution import CASES, TERMS

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
"""Set while a figure is drawn and while it is saved, never for the whole process."""

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, LIGHT = "#8C8C8C", "#D4D4D4"
MAP, DIVERGING = "cividis", "RdBu_r"

EQUAL, OVER, UNDER = GREY, RED, BLUE
"""φ = a, φ > a and φ < a, wherever only these are told apart; also spikes: negative ones are RED."""

CASE_COLOURS = dict(zip(CASES, (LIGHT, ORANGE, SKY, EQUAL, OVER, UNDER), strict=True))
CASE_LABELS = dict(
    zip(CASES, ("a = 0, φ = a", "a = 0, φ > a", "a = 0, φ < a", "a > 0, φ = a", "a > 0, φ > a", "a > 0, φ < a"), strict=True)
)  # fmt: skip
TERM_COLOURS = dict(zip(TERMS, (BLACK, RED, PURPLE, ORANGE, GREEN, YELLOW, SKY), strict=True))
TERM_LABELS = {term: term.replace("_", " ") for term in TERMS}

LINE_HEIGHT = 0.155
"""Inches that a line of tick labels needs."""


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


def layer_label(layer: Layer, limit: int = 28) -> str:
    """A layer in a list of layers: its index and name."""
    return f"{layer.index}  {clean(layer.name, limit)}"


def facts(recording: Recording, timestep: int | None = None, sample: int | None = None) -> str:
    """The second line of a title: which t, which samples, and whether the recording is whole."""
    total = recording.timesteps
    when = f"t = {timestep} of T = {total}" if timestep not in (None, total) else f"T = {total}"
    who = f"{recording.samples} samples" if sample is None else f"sample {sample} of {recording.samples}"
    return f"{when}, {who}" + ("" if recording.complete else " (INCOMPLETE RECORDING)")


def title_of(
    what: Layer | Recording, title: str = "", *, timestep: int | None = None, sample: int | None = None
) -> str:
    """The title of a panel: a layer, or the network and what is shown of it; below, the `facts`.

    Args:
        what: a layer, or the recording.
        title: what is shown, before a network's name.
        timestep: t where it is one; None stands for T.
        sample: where one is shown.
    """
    if hasattr(what, "recording"):
        head = f"layer {layer_label(what, 34)}"
        recording = what.recording
    else:
        recording = what
        head = f"{title}: {clean(str(recording.attributes.get('model', '')), 34)}".removesuffix(": ")
    return f"{head}\n{facts(recording, timestep, sample)}"


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
    """A legend to the right of the axes, where it covers nothing whatever the height."""
    return axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, **keywords)


def colour_of_text(value: float) -> str:
    """Black or white, whichever can be read on the colour of `MAP` at a value from 0 to 1."""
    red, green, blue, _ = matplotlib.colormaps[MAP](value)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
