"""Surrogates over x = v − θ: forward against the Heaviside step, and below it the gradient that autograd gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from probe.plots.colours import BLUE, GREEN, GREY, LIGHT, ORANGE, PURPLE, RED, SKY
from probe.plots.style import clean

if TYPE_CHECKING:
    from probe.surrogates import Gradient, MeasuredSurrogate

COLOURS = (BLUE, RED, GREEN, PURPLE, SKY, ORANGE)
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 3)), (0, (1, 2)), (0, (7, 2, 1, 2)))
"""Curves that lie on each other can still be told apart."""
OnFigure = TypeVar("OnFigure", Figure, SubFigure)


def draw_curves(figure: OnFigure, measured: Sequence[MeasuredSurrogate]) -> OnFigure:
    """Draw forward and gradient of each surrogate, one above the other; a bar shows each width at half maximum.

    Args:
        figure: to draw on.
        measured: from `probe.measure_surrogate`, all over the same range.
    """
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.7))
    span = max(float(one.x[-1]) for one in measured)
    top.plot([-span, 0, 0, span], [0, 0, 1, 1], color=LIGHT, lw=6.0, solid_joinstyle="miter", label="Heaviside step")
    for i, one in enumerate(measured):
        colour = COLOURS[i % len(COLOURS)]
        look: dict[str, Any] = {"color": colour, "ls": DASHES[i % len(DASHES)], "lw": 1.6}
        label = clean(one.label, 46)
        top.plot(one.x, one.outputs, **look)
        if one.gradients is None or one.gradient is None:
            bottom.plot([], [], **look, label=f"{label}: no gradient")
            continue
        bottom.plot(one.x, one.gradients, **look, label=label)
        _draw_width(bottom, one.gradient, colour)
    for axes in (top, bottom):
        axes.axvline(0, color=GREY, lw=0.7, zorder=0)
        axes.grid(axis="y")
    top.set_ylabel("forward")
    bottom.set_ylabel("gradient (autograd)")
    bottom.set_xlabel("x = v − θ")
    bottom.set_xlim(-span, span)
    figure.align_ylabels([top, bottom])
    figure.legend(loc="outside lower center", ncols=2, handlelength=2.6, columnspacing=1.6)
    top.set_title("Surrogate gradients; bars: width at half maximum")
    return figure


def _draw_width(axes: Axes, gradient: Gradient, colour: str) -> None:
    """A bar at half the maximum, from where the gradient passes it to where it passes it again."""
    if gradient.width_from is not None and gradient.width_to is not None:
        ends, half = [gradient.width_from, gradient.width_to], gradient.maximum / 2
        # A short bar lies on a long one.
        axes.plot(ends, [half, half], color=colour, lw=0.8, marker="|", ms=6, zorder=2 + 1 / (1 + ends[1] - ends[0]))
